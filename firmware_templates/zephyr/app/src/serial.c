/* port_read and port_write over Zephyr's UART API: the chosen sgsc,link, or else the console's port. */
#include <zephyr/device.h>
#include <zephyr/devicetree.h>
#include <zephyr/drivers/uart.h>
#include <zephyr/kernel.h>

#include "platform.h"
#include "port.h"

#if DT_HAS_CHOSEN(sgsc_link)
#define LINK_NODE DT_CHOSEN(sgsc_link)
#else
#define LINK_NODE DT_CHOSEN(zephyr_console)
#endif

#define RING_BYTES 1024 /* more than one frame: the host waits for each answer */
#define LOOKS_BEFORE_SLEEP 2000 /* within a frame the next byte is near, and QEMU is slow to wake from sleep */

static const struct device *const port = DEVICE_DT_GET(LINK_NODE);
K_MSGQ_DEFINE(received, 1, RING_BYTES, 1);

static void on_interrupt(const struct device *device, void *unused)
{
    uint8_t byte;
    ARG_UNUSED(unused);
    while (uart_irq_update(device) && uart_irq_rx_ready(device) && uart_fifo_read(device, &byte, 1) == 1) {
        (void)k_msgq_put(&received, &byte, K_NO_WAIT); /* full: the frame's checksum will tell */
    }
}

void serial_init(void)
{
    if (!device_is_ready(port))
        k_panic();
    uart_irq_callback_user_data_set(port, on_interrupt, NULL);
    serial_resume();
}

void serial_pause(void)
{
    uart_irq_rx_disable(port);
}

/* A byte that came while its interrupt was off raises none on some UARTs (CMSDK), and blocks all that follow: fetch it. */
void serial_resume(void)
{
    const unsigned int key = irq_lock();
    uart_irq_rx_enable(port);
    on_interrupt(port, NULL);
    irq_unlock(key);
}

uint8_t port_read(void)
{
    uint8_t byte;
    for (int looks = 0; looks < LOOKS_BEFORE_SLEEP; ++looks) {
        if (k_msgq_get(&received, &byte, K_NO_WAIT) == 0)
            return byte;
    }
    (void)k_msgq_get(&received, &byte, K_FOREVER);
    return byte;
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        uart_poll_out(port, bytes[i]);
}
