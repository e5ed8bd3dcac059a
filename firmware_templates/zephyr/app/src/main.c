/* The runtime's main loop in Zephyr's main thread, and what it asks of the image. */
#include <zephyr/kernel.h>
#include <zephyr/linker/linker-defs.h>

#include "app.h"
#include "platform.h"
#include "port.h"

extern const uint8_t __build_id__[]; /* rom.ld */

const uint8_t *port_image_start(void)
{
    return (const uint8_t *)__rom_region_start;
}

uint32_t port_image_bytes(void)
{
    return (uint32_t)(uintptr_t)_flash_used;
}

const uint8_t *port_build_id(void)
{
    return __build_id__ + 16; /* behind the note's header: three words and "GNU" */
}

int main(void)
{
    serial_init();
    app_run();
}
