// SPDX-License-Identifier: MIT
/* Faults on request: the list that each model keeps of them. */
#include <errno.h>
#include <string.h>

#include "faults.h"

static struct fault *at(struct faults *s, unsigned int i)
{
	return (struct fault *)((char *)s->array + i * s->size);
}

/* Take it out; the model's lock is held. */
void faults_drop(struct faults *s, struct fault *f)
{
	char *next = (char *)f + s->size, *end = (char *)at(s, s->n--);

	memmove(f, next, (size_t)(end - next));
}

/* Count a hit; the fault may be gone afterwards. The model's lock is held. */
void faults_hit(struct faults *s, struct fault *f)
{
	f->hits++;
	if (f->count && f->hits >= f->count)
		faults_drop(s, f);
}

/**
 * faults_add() - break something from now on
 * @s: the faults of a model
 * @fault: what, the model's own struct; id and hits are ignored
 *
 * Return: the fault's id (> 0), -ENOSPC if the list is full, whatever @fault is, or what the model says: -EINVAL,
 * -ENODEV when there is nothing to break.
 */
int faults_add(struct faults *s, const struct fault *fault)
{
	struct fault *f;
	int ret = -ENOSPC;

	pthread_mutex_lock(s->lock);
	if (s->n < FAULTS_ROOM) {
		f = memcpy(at(s, s->n++), fault, s->size);
		f->hits = 0;
		f->id = s->last + 1;
		ret = s->start(s, f);
		if (ret)
			faults_drop(s, f);
		else
			ret = (int)++s->last;
	}
	pthread_mutex_unlock(s->lock);
	return ret;
}

/**
 * faults_clear() - mend it
 * @s: the faults of a model
 * @id: of one fault; 0: all of them
 *
 * Return: how many were cleared, -ENOENT when @id is not there (any more).
 */
int faults_clear(struct faults *s, uint32_t id)
{
	int cleared = 0;

	pthread_mutex_lock(s->lock);
	for (unsigned int i = s->n; i-- > 0;) {
		struct fault *f = at(s, i);

		if (id && f->id != id)
			continue;
		s->mend(s, f);
		faults_drop(s, f);
		cleared++;
	}
	pthread_mutex_unlock(s->lock);
	return id && !cleared ? -ENOENT : cleared;
}

/* Copy at most max faults, of the model's own struct; returns how many there are. */
int faults_list(struct faults *s, void *faults, int max)
{
	int n;

	pthread_mutex_lock(s->lock);
	n = (int)s->n;
	memcpy(faults, s->array, (size_t)(n < max ? n : max) * s->size);
	pthread_mutex_unlock(s->lock);
	return n;
}
