/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a module file with libelf and checks that it is built for this machine, is not
 * truncated, and has a descriptor and a section. Nothing here runs the file.
 */
#include "core/modules/elffile.h"
#include "core/modules/loader.h"

#include <errno.h>
#include <limits.h>
#include <link.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define MAX_SECTION	(1u << 20)
#define SYMBOL		"kvmod_module"

/* From the linker: our own ELF header, which names the machine whose files we can load. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

/* --- is it a file of this machine, whole? ---------------------------------------------- */

static const char *machine_name(unsigned machine, char *text, size_t room)
{
	switch (machine) {
	case EM_386:
		return "i386";
	case EM_X86_64:
		return "x86-64";
	case EM_ARM:
		return "Arm";
	case EM_AARCH64:
		return "AArch64";
	case EM_PPC64:
		return "PowerPC64";
	case EM_S390:
		return "S/390";
	case EM_RISCV:
		return "RISC-V";
	}
	snprintf(text, room, "ELF machine %u", machine);
	return text;
}

static int check_machine(const GElf_Ehdr *h)
{
	char theirs[32], ours[32];

	if (h->e_ident[EI_CLASS] != __ehdr_start.e_ident[EI_CLASS])
		return kv_fail(KVMOD_EFORMAT, "built for %d-bit programs, this program has %d bits: "
			       "rebuild it", h->e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32,
			       __ehdr_start.e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32);
	if (h->e_machine != __ehdr_start.e_machine ||
	    h->e_ident[EI_DATA] != __ehdr_start.e_ident[EI_DATA])
		return kv_fail(KVMOD_EFORMAT, "built for %s, this machine is %s: rebuild it",
			       machine_name(h->e_machine, theirs, sizeof(theirs)),
			       machine_name(__ehdr_start.e_machine, ours, sizeof(ours)));
	if (h->e_type != ET_DYN)
		return kv_fail(KVMOD_EFORMAT, "not a shared object: link it with -shared");
	return KVMOD_OK;
}

bool kv_elf_foreign(Elf *elf)
{
	GElf_Ehdr h;

	return gelf_getehdr(elf, &h) && (h.e_ident[EI_CLASS] != __ehdr_start.e_ident[EI_CLASS] ||
					 h.e_machine != __ehdr_start.e_machine);
}

static bool beyond(uint64_t offset, uint64_t size, uint64_t file_size)
{
	return offset > file_size || size > file_size - offset;
}

/* The headers say how long the file must be. */
static int check_whole(Elf *elf, const GElf_Ehdr *h, uint64_t file_size)
{
	bool truncated = beyond(h->e_phoff, (uint64_t)h->e_phnum * h->e_phentsize, file_size) ||
			 beyond(h->e_shoff, (uint64_t)h->e_shnum * h->e_shentsize, file_size);
	size_t n = 0;
	GElf_Phdr p;

	if (!truncated && elf_getphdrnum(elf, &n) != 0)
		truncated = true;
	for (size_t i = 0; i < n && !truncated; i++)
		truncated = !gelf_getphdr(elf, (int)i, &p) || beyond(p.p_offset, p.p_filesz, file_size);
	if (truncated)
		return kv_fail(KVMOD_EFORMAT, "truncated: its headers refer to more than its %llu bytes",
			       (unsigned long long)file_size);
	return KVMOD_OK;
}

/* --- the descriptor, as it lies in the file ----------------------------------------------- */

static Elf_Scn *next_section(Elf *elf, Elf_Scn *scn, GElf_Shdr *shdr)
{
	do
		scn = elf_nextscn(elf, scn);
	while (scn && !gelf_getshdr(scn, shdr));
	return scn;
}

static bool exported(const GElf_Sym *symbol)
{
	return symbol->st_shndx != SHN_UNDEF && GELF_ST_BIND(symbol->st_info) == STB_GLOBAL &&
	       GELF_ST_VISIBILITY(symbol->st_other) == STV_DEFAULT;
}

/* The exported symbol, if this file itself defines it. */
static bool find_symbol(Elf *elf, GElf_Sym *symbol)
{
	Elf_Scn *scn = NULL;
	GElf_Shdr shdr;

	while ((scn = next_section(elf, scn, &shdr))) {
		Elf_Data *data = shdr.sh_type == SHT_DYNSYM ? elf_getdata(scn, NULL) : NULL;
		size_t n = data && shdr.sh_entsize ? data->d_size / shdr.sh_entsize : 0;

		for (size_t i = 0; i < n && i < INT_MAX; i++) {
			const char *name;

			if (!gelf_getsym(data, (int)i, symbol) || !exported(symbol))
				continue;
			name = elf_strptr(elf, shdr.sh_link, symbol->st_name);
			if (name && strcmp(name, SYMBOL) == 0)
				return true;
		}
	}
	return false;
}

bool kv_elf_offset(Elf *elf, uint64_t address, uint64_t size, uint64_t *offset)
{
	GElf_Phdr p;
	size_t n = 0;

	elf_getphdrnum(elf, &n);
	for (size_t i = 0; i < n; i++) {
		if (!gelf_getphdr(elf, (int)i, &p) || p.p_type != PT_LOAD || address < p.p_vaddr ||
		    beyond(address - p.p_vaddr, size, p.p_filesz))
			continue;
		*offset = p.p_offset + address - p.p_vaddr;
		return true;
	}
	return false;
}

/* Reads all of it: signals and short reads do not end it. */
static bool read_at(int fd, void *to, size_t size, uint64_t offset)
{
	for (size_t have = 0; have < size;) {
		ssize_t n = pread(fd, (char *)to + have, size - have, (off_t)(offset + have));

		if (n == 0 || (n < 0 && errno != EINTR))
			return false;
		have += n > 0 ? (size_t)n : 0;
	}
	return true;
}

/* The file's bytes at a run-time address. */
static bool read_address(Elf *elf, int fd, uint64_t address, void *to, size_t size)
{
	uint64_t offset;

	return kv_elf_offset(elf, address, size, &offset) && read_at(fd, to, size, offset);
}

/* The numbers at its front are in the file; its pointers are filled in when it is loaded. */
static int check_descriptor(struct kvmod_modinfo *info, Elf *elf)
{
	struct kvmod_module front;
	GElf_Sym symbol;

	if (!find_symbol(elf, &symbol))
		return kv_fail(KVMOD_EFORMAT, "exports no `" SYMBOL "`: define it with KVMOD_MODULE()");
	if (!read_address(elf, info->fd, symbol.st_value, &front, offsetof(struct kvmod_module, name)))
		return kv_fail(KVMOD_EFORMAT, "its `" SYMBOL "` is not in the file");
	if (front.magic != KVMOD_MAGIC)
		return kv_fail(KVMOD_EFORMAT, "its `" SYMBOL "` has the magic number 0x%08x, "
			       "expected 0x%08x: define it with KVMOD_MODULE()",
			       front.magic, KVMOD_MAGIC);
	if (front.size < KV_LEAST_DESCRIPTOR)
		return kv_fail(KVMOD_EABI, "its `" SYMBOL "` has size %u: expected %zu or more",
			       front.size, sizeof(front));
	info->flags = front.flags;
	return kv_abi_check(front.abi_major, front.abi_minor);
}

/* --- the section ------------------------------------------------------------------------------ */

static int read_section(struct kvmod_modinfo *info, Elf *elf, char **text, size_t *size)
{
	Elf_Scn *scn = NULL;
	GElf_Shdr shdr;
	const char *name;
	Elf_Data *data;
	size_t strings;

	if (elf_getshdrstrndx(elf, &strings) != 0)
		return kv_fail(KVMOD_EFORMAT, "its section headers are invalid");
	while ((scn = next_section(elf, scn, &shdr))) {
		name = elf_strptr(elf, strings, shdr.sh_name);
		if (name && strcmp(name, KVMOD_INFO_SECTION) == 0)
			break;
	}
	if (!scn)
		return kv_fail(KVMOD_EFORMAT, "not a kvmod module: it has no " KVMOD_INFO_SECTION
			       " section; define one with KVMOD_MODULE()");
	if (shdr.sh_size > MAX_SECTION)
		return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section has %llu bytes: expected "
			       "at most %u", (unsigned long long)shdr.sh_size, MAX_SECTION);
	data = shdr.sh_type == SHT_PROGBITS ? elf_getdata(scn, NULL) : NULL;
	if (!data || !data->d_buf)
		return kv_fail(KVMOD_EFORMAT, "its " KVMOD_INFO_SECTION " section cannot be read");
	*text = kv_arena_strndup(&info->arena, data->d_buf, data->d_size);
	*size = data->d_size;
	return *text ? KVMOD_OK : KVMOD_ENOMEM;
}

static int read_elf(struct kvmod_modinfo *info, Elf *elf)
{
	uint64_t file_size = (uint64_t)info->st.st_size;
	char *text = NULL;
	size_t size = 0;
	GElf_Ehdr h;
	int err;

	if (elf_kind(elf) != ELF_K_ELF || file_size < SELFMAG)
		return kv_fail(KVMOD_EFORMAT, "not an ELF file");
	if (!gelf_getehdr(elf, &h))
		return kv_fail(KVMOD_EFORMAT, "truncated: it ends within its ELF header");
	err = check_machine(&h);
	if (err == KVMOD_OK)
		err = check_whole(elf, &h, file_size);
	if (err == KVMOD_OK)
		err = read_section(info, elf, &text, &size);
	if (err == KVMOD_OK)
		err = kv_facts_read(info, text, size);
	return err == KVMOD_OK ? check_descriptor(info, elf) : err;
}

/* libelf has no names for its error numbers. */
int kv_elf_failed(int err)
{
	int number = elf_errno();
	const char *text = number ? elf_errmsg(number) : NULL;

	return text && strcasecmp(text, "out of memory") == 0 ? kv_no_memory() : err;
}

int kv_elf_read(struct kvmod_modinfo *info)
{
	Elf *elf;
	int err;

	elf_version(EV_CURRENT);
	elf_errno();			/* forgets an older error */
	elf = elf_begin(info->fd, ELF_C_READ, NULL);
	if (!elf)
		return kv_fail(KVMOD_EFORMAT, "not an ELF file: %s", elf_errmsg(-1));
	err = read_elf(info, elf);
	elf_end(elf);
	return err;
}
