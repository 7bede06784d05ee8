/* SPDX-License-Identifier: Apache-2.0 */
/* A shared object with nothing in it, the rival of `kvmod bench load`. */
typedef int nothing;
