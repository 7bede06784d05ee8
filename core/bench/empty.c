/* SPDX-License-Identifier: Apache-2.0 */
/* A shared object with nothing in it: what loading a module is measured against. */
typedef int nothing;
