/* The processor's last words, on the link, before it resets. */
#include <zephyr/fatal.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/reboot.h>

#include "link.h"
#include "port.h"

#define CFSR (*(volatile uint32_t *)0xE000ED28u)

void k_sys_fatal_error_handler(unsigned int reason, const z_arch_esf_t *frame)
{
    static struct link_frame report;
    uint32_t exception;
    __asm volatile("mrs %0, ipsr" : "=r"(exception));
    const bool whole = frame != NULL && reason != K_ERR_STACK_CHK_FAIL;
    link_begin(&report, LINK_FAULT, 0);
    link_put_u32(&report, exception & 0x1FFu);
    link_put_u32(&report, whole ? frame->basic.pc : 0);
    link_put_u32(&report, whole ? frame->basic.lr : 0);
    link_put_u32(&report, CFSR); /* Zephyr has cleared what it looked at */
    link_seal(&report);
    link_send(&report, port_write);
    sys_reboot(SYS_REBOOT_COLD);
}
