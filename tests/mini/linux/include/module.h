/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What makes an object file look like a module, or an exporter, to its loader. */
#ifdef MODVERSIONS
#define VERMAGIC RELEASE " mod_unload MODVERSIONS "
#define CRC(name, value) asm(".globl __crc_" #name "\n.set __crc_" #name ", " #value);
#define USES(...) \
	static const struct { unsigned long crc; char name[64 - sizeof(long)]; } versions[] \
	__attribute__((used, section("__versions"))) = { __VA_ARGS__ };
#else
#define VERMAGIC RELEASE " mod_unload "
#define CRC(name, value)
#define USES(...)
#endif
#define EXPORT(name, value) \
	CRC(name, value) \
	const void *__ksymtab_##name __attribute__((used, section("__ksymtab"))) = (void *)name;
#define MODULE \
	static const char modinfo[] __attribute__((used, section(".modinfo"), aligned(1))) = \
		"license=GPL\0vermagic=" VERMAGIC;
int mini_print(int number);
int mini_help(int number);
