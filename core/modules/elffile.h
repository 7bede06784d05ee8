/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers for the files that read ELF (elffile.c). */
#ifndef KV_CORE_MODULES_ELFFILE_H
#define KV_CORE_MODULES_ELFFILE_H

#include <config.h>
#include <gelf.h>
#include <stdbool.h>
#include <stdint.h>

/* The offset in the file of the bytes at a run-time address; false: the file lacks them. */
bool kv_elf_offset(Elf *elf, uint64_t address, uint64_t size, uint64_t *offset);
/* Is it built for another word size or another machine than this program? */
bool kv_elf_foreign(Elf *elf);

#endif
