/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hadamard matrices, by which some engines rotate cached rows before they store them in
 * few bits: large elements are then spread over all of a block. [any thread]
 */
#ifndef KV_KERNELS_CPU_HADAMARD_H
#define KV_KERNELS_CPU_HADAMARD_H

#include <stddef.h>
#include <stdint.h>

/*
 * Multiplies x, block by block of d elements, by the orthonormal Hadamard matrix of d
 * dimensions in Sylvester's order: element (i, j) is (-1)^popcount(i & j) / sqrt(d). The
 * matrix is its own inverse. d is a power of two, and n a multiple of d.
 */
void kv_cpu_hadamard(float *x, size_t n, uint32_t d);

#endif
