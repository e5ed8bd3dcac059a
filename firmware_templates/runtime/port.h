/* What a platform owes the runtime. bare_metal/ is one; an RTOS would be another. */
#ifndef PORT_H
#define PORT_H

#include <stddef.h>
#include <stdint.h>

#define BUILD_ID_BYTES 20u

struct measurement {
    uint64_t ticks;       /* core clock cycles from measure_begin to measure_end */
    uint32_t stack_bytes; /* deepest use of the stack since measure_begin, counted from its top */
};

/* Bytes that are flashed: [image_start, image_start + image_bytes), with the linker's build-id among them. */
const uint8_t *port_image_start(void);
uint32_t port_image_bytes(void);
const uint8_t *port_build_id(void);

uint32_t port_core_hz(void);
uint32_t port_stack_bytes(void);

uint8_t port_read(void); /* sleeps until a byte is there */
void port_write(const uint8_t *bytes, size_t count);

/* Between the two nothing but the tick counter's overflow interrupts the processor: bytes that arrive may be lost. */
void measure_begin(void);
struct measurement measure_end(void);

#endif
