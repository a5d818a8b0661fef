// SPDX-License-Identifier: MIT
/*
 * The memory that a vfio-user peer lets the device reach. The peer may take it
 * away under our feet (truncate its file): copies are guarded, and a SIGBUS in
 * one is a master abort.
 */
#define _GNU_SOURCE
#include "server.h"

#include <errno.h>
#include <linux/magic.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static _Thread_local sigjmp_buf *volatile guard;
static struct sigaction previous;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	if (guard)
		siglongjmp(*guard, 1);
	/* not ours: let whoever was there before, or the default, have it */
	if (previous.sa_flags & SA_SIGINFO)
		previous.sa_sigaction(signal, info, context);
	else
		sigaction(SIGBUS, &previous, NULL);
}

static void install(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER };

	sigaction(SIGBUS, &sa, &previous);
}

static int guarded_copy(void *to, const void *from, size_t len)
{
	sigjmp_buf buf;

	if (sigsetjmp(buf, 0)) {
		guard = NULL;
		return -EFAULT;
	}
	guard = &buf;
	atomic_signal_fence(memory_order_seq_cst);	/* the handler sees the guard before the copy begins */
	memcpy(to, from, len);
	atomic_signal_fence(memory_order_seq_cst);
	guard = NULL;
	return 0;
}

void vu_dma_init(struct vu_dma *d, struct usrdrv_model *model)
{
	*d = (struct vu_dma){ .model = model, .stray = VU_NOWHERE };
	pthread_rwlock_init(&d->lock, NULL);
	pthread_once(&once, install);
}

static uint64_t last_byte(const struct vu_area *a)
{
	return a->address + (a->size - 1);
}

/* Index of the first area that ends at address or after it. */
static unsigned int find(const struct vu_dma *d, uint64_t address)
{
	unsigned int lo = 0, hi = d->n;

	while (lo < hi) {
		unsigned int mid = (lo + hi) / 2;

		if (last_byte(&d->area[mid]) < address)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Whether a file's pages are memory. Those of FUSE or a network may never come, and we would wait. Return: 0 or -errno. */
static int check_memory(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs))
		return -errno;
	return fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC || fs.f_type == RAMFS_MAGIC ? 0 : -EINVAL;
}

int vu_dma_map(struct vu_dma *d, int fd, const struct vu_dma_map *m)
{
	int prot = (m->flags & 1 ? PROT_READ : 0) | (m->flags & 2 ? PROT_WRITE : 0);
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skew = m->offset & (page - 1);
	void *map = NULL;
	struct stat st;
	unsigned int i;
	int ret = 0;

	if (!m->size || m->size - 1 > UINT64_MAX - m->address || m->flags & ~3u)
		return -EINVAL;
	if (fd >= 0) {
		/* Beyond its end a mapping is only a trap. */
		if (fstat(fd, &st))
			return -errno;
		if (!S_ISREG(st.st_mode) || m->offset > INT64_MAX || m->size > INT64_MAX - m->offset ||
		    (int64_t)(m->offset + m->size) > st.st_size)
			return -EINVAL;
		ret = check_memory(fd);
		if (ret)
			return ret;
		map = mmap(NULL, m->size + skew, prot, MAP_SHARED, fd, (off_t)(m->offset - skew));
		if (map == MAP_FAILED)
			return -errno;
	}
	pthread_rwlock_wrlock(&d->lock);
	i = find(d, m->address);
	if (i < d->n && d->area[i].address <= m->address + (m->size - 1))
		ret = -EEXIST;
	else if (d->n == VU_MAX_AREAS)
		ret = -ENOSPC;
	else if (d->n == d->room) {
		unsigned int room = d->room ? d->room * 2 : 64;
		struct vu_area *area = realloc(d->area, room * sizeof(*area));

		if (area) {
			d->area = area;
			d->room = room;
		} else {
			ret = -ENOMEM;
		}
	}
	if (!ret) {
		memmove(&d->area[i + 1], &d->area[i], (d->n - i) * sizeof(d->area[0]));
		d->area[i] = (struct vu_area){
			.address = m->address, .size = m->size, .prot = prot, .map = map, .skew = skew,
		};
		d->n++;
	}
	pthread_rwlock_unlock(&d->lock);
	if (ret && map)
		munmap(map, m->size + skew);
	return ret;
}

/* The areas in the range go away. One that is cut by it would stay in reach: refused, as VFIO does. */
int vu_dma_unmap(struct vu_dma *d, uint64_t address, uint64_t size, int all)
{
	unsigned int first, end;
	uint64_t last;

	if (all) {
		address = 0;
		size = 0;	/* less 1: the last byte of all */
	} else if (!size || size - 1 > UINT64_MAX - address) {
		return -EINVAL;
	}
	last = address + (size - 1);
	/* Only this thread changes the table: indices stay good while it is unlocked. */
	first = find(d, address);
	end = find(d, last);
	if (end < d->n && last_byte(&d->area[end]) == last)
		end++;
	else if (end < d->n && d->area[end].address <= last)
		return -EINVAL;
	if (first == end)
		return 0;
	if (d->area[first].address < address)
		return -EINVAL;
	pthread_rwlock_wrlock(&d->lock);
	for (unsigned int i = first; i < end; i++)
		d->area[i].prot = 0;
	pthread_rwlock_unlock(&d->lock);
	/* A worker of the model may still have an address of vu_dma_ptr's; after a register access it has not. */
	d->model->ops->read(d->model, VU_CONFIG_REGION, 0, 4);
	pthread_rwlock_wrlock(&d->lock);
	for (unsigned int i = first; i < end; i++)
		if (d->area[i].map)
			munmap(d->area[i].map, d->area[i].size + d->area[i].skew);
	memmove(&d->area[first], &d->area[end], (d->n - end) * sizeof(d->area[0]));
	d->n -= end - first;
	pthread_rwlock_unlock(&d->lock);
	return 0;
}

void vu_dma_destroy(struct vu_dma *d)
{
	vu_dma_unmap(d, 0, 0, 1);
	free(d->area);
	pthread_rwlock_destroy(&d->lock);
}

/* CPU address of a bus address, and how much of len is contiguous there; lock held. */
static uint8_t *resolve(struct vu_dma *d, uint64_t address, size_t len, int prot, size_t *avail)
{
	unsigned int i = find(d, address);
	struct vu_area *a;
	uint64_t at;

	if (i == d->n || d->area[i].address > address)
		return NULL;
	a = &d->area[i];
	if (!a->map || !(a->prot & prot))
		return NULL;
	at = address - a->address;
	*avail = a->size - at < len ? (size_t)(a->size - at) : len;
	return (uint8_t *)a->map + a->skew + at;
}

static int copy(struct vu_dma *d, uint64_t address, uint8_t *buf, size_t len, int to_memory)
{
	int ret = 0;

	pthread_rwlock_rdlock(&d->lock);
	while (len && !ret) {
		size_t n;
		uint8_t *cpu = resolve(d, address, len, to_memory ? PROT_WRITE : PROT_READ, &n);

		if (!cpu) {
			d->stray = address;
			ret = -EFAULT;
			break;
		}
		ret = to_memory ? guarded_copy(cpu, buf, n) : guarded_copy(buf, cpu, n);
		address += n;
		buf += n;
		len -= n;
	}
	pthread_rwlock_unlock(&d->lock);
	return ret;
}

int vu_dma_read(struct vu_dma *d, uint64_t address, void *buf, size_t len)
{
	return copy(d, address, buf, len, 0);
}

int vu_dma_write(struct vu_dma *d, uint64_t address, const void *buf, size_t len)
{
	return copy(d, address, (uint8_t *)(uintptr_t)buf, len, 1);
}

/* The pointer outlives the lock: vu_dma_unmap() waits for the operation that uses it. */
void *vu_dma_ptr(struct vu_dma *d, uint64_t address, size_t len, int device_writes, size_t *avail)
{
	void *cpu;

	pthread_rwlock_rdlock(&d->lock);
	cpu = resolve(d, address, len, device_writes ? PROT_WRITE : PROT_READ, avail);
	pthread_rwlock_unlock(&d->lock);
	return cpu;
}
