/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that read ELF share. */
#ifndef KVMOD_ELFFILE_H
#define KVMOD_ELFFILE_H

#include <config.h>
#include <gelf.h>
#include <stdbool.h>
#include <stdint.h>

/* Where in the file the bytes of a run-time address are; false: they are not in it. */
bool kv_elf_offset(Elf *elf, uint64_t address, uint64_t size, uint64_t *offset);
/* Is it certainly for another class of programs, or another machine, than this one? */
bool kv_elf_foreign(Elf *elf);

#endif
