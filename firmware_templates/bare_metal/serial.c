/* port_read and port_write over the board's UART: received bytes go through a ring that the interrupt fills. */
#include <stdbool.h>

#include "board.h"
#include "chip.h"
#include "cortex_m.h"
#include "port.h"

#define RING_BYTES 1024u /* a power of two, and more than what arrives while a request is answered */
#define LOOKS_BEFORE_SLEEP 20000u /* within a frame the next byte is near, and QEMU is slow to wake from WFI */

static uint8_t ring[RING_BYTES];
static volatile uint32_t ring_head; /* written by the interrupt */
static volatile uint32_t ring_tail; /* written by port_read */

void serial_init(uint32_t uart_hz)
{
    uart_init(uart_hz, UART_BAUD);
    irq_enable(UART_IRQ);
}

void serial_received(uint8_t byte)
{
    if (ring_head - ring_tail == RING_BYTES)
        return; /* the frame's checksum will tell */
    ring[ring_head % RING_BYTES] = byte;
    ring_head = ring_head + 1u;
}

uint8_t port_read(void)
{
    for (uint32_t looks = 0; ring_head == ring_tail && looks < LOOKS_BEFORE_SLEEP; ++looks) {
    }
    for (;;) {
        interrupts_off(); /* else a byte between the test and WFI would not wake the processor */
        const bool empty = ring_head == ring_tail;
        if (empty)
            wait_for_interrupt();
        interrupts_on();
        if (!empty) {
            const uint8_t byte = ring[ring_tail % RING_BYTES];
            ring_tail = ring_tail + 1u;
            return byte;
        }
    }
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        uart_send(bytes[i]);
}
