/* SPDX-License-Identifier: Apache-2.0 */
/* One read of device memory: the least time that work on the same bytes can take. */
#ifndef KV_KERNELS_CUDA_READ_READ_H
#define KV_KERNELS_CUDA_READ_READ_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Queues a read of `bytes` bytes, a multiple of 16; memory is 16-byte aligned. The
 * kernel may write to `sink`, four bytes on the device. 0; or KVMOD_EDEVICE, and
 * CUDA's last error is the reason.
 */
int kv_cuda_read(const void *memory, uint64_t bytes, uint32_t *sink, void *stream);
/* Does this module hold code for the GPU at hand? */
int kv_cuda_runs_here(void);

#ifdef __cplusplus
}
#endif
#endif
