/* SPDX-License-Identifier: MIT */
/* What is broken in a model: its faults, in the order in which they were added. */
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
	/* Break it; it is in the list. -errno: it cannot be, and goes again. */
	int (*start)(struct faults *s, struct fault *f);
	/* Undo what it holds down; it is still in the list, and nothing may hit it. */
	void (*mend)(struct faults *s, const struct fault *f);
	unsigned int n;
	uint32_t last;		/* id */
};

void faults_drop(struct faults *s, struct fault *f);
void faults_hit(struct faults *s, struct fault *f);

#endif
