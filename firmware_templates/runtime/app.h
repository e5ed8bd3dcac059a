/* The firmware's main loop: answers requests on the link for ever. */
#ifndef APP_H
#define APP_H

#include <stdint.h>

void app_run(void) __attribute__((noreturn));

/* One turn of it, for a caller with a loop of its own: takes a byte of the line, and answers if it ends a request. */
void app_feed(uint8_t byte);

#endif
