/* Compiled into the library's files here: the constants get a section that Zephyr's linker script has no place for, so that
 * rom.ld gives them one of their own. The arena's has a name already: see ram.ld. */
struct model_constants;
extern const struct model_constants model_constants __attribute__((section(".weights")));
