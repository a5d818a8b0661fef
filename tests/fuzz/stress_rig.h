/* SPDX-License-Identifier: MIT */
/* A controller model with equal drives, opened through the in-process backend. */
#ifndef STRESS_RIG_H
#define STRESS_RIG_H

#include <stdint.h>

#include "usrdrv/dev.h"

struct usrdrv_dev *stress_open(unsigned int drives, uint64_t sectors);
void stress_close(struct usrdrv_dev *dev);

#endif
