/* SPDX-License-Identifier: MIT */
/*
 * What is broken in a model: its faults, in the order in which they were added. A hit may be the last one, and then the
 * array moves: after anything that may hit or drop a fault, no pointer to one holds.
 */
#ifndef USRDRV_DEVICES_FAULTS_H
#define USRDRV_DEVICES_FAULTS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* cffi: begin */
#define FAULTS_ROOM	64	/* faults that a model has at most */

/* What a fault of each model begins with; the member is called base. */
struct fault {
	uint32_t kind;		/* of the model's enum */
	uint32_t id;		/* given by faults_add */
	uint32_t on;		/* the model's mask of directions; 0: all */
	uint64_t count;		/* gone after so many hits; 0: stays until cleared */
	uint64_t hits;
};

struct faults;

int faults_add(struct faults *s, const struct fault *fault);
int faults_clear(struct faults *s, uint32_t id);
int faults_list(struct faults *s, void *faults, int max);
/* cffi: end */

struct faults {
	void *model;
	pthread_mutex_t *lock;	/* the model's; held around start and mend */
	void *array;		/* FAULTS_ROOM of the model's own struct */
	size_t size;		/* of one, bytes */
	/* Begin the effect of a fault in the list. -errno: there can be none; faults_add() drops it again. */
	int (*start)(struct faults *s, struct fault *f);
	/* End the effect of a fault. It is in the list still, so this hits none. */
	void (*mend)(struct faults *s, const struct fault *f);
	unsigned int n;
	uint32_t last;		/* id */
};

void faults_drop(struct faults *s, struct fault *f);
void faults_hit(struct faults *s, struct fault *f);

#endif
