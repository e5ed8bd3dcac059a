/* The firmware's main loop: answers requests on the link for ever. */
#ifndef APP_H
#define APP_H

#include <stdint.h>

void app_run(void) __attribute__((noreturn));

/* For a caller with a loop of its own: once at boot, checks the network's constants; without it RUN is refused. */
void app_boot(void);

/* One turn of the loop: takes a byte of the line, and answers if it ends a request. */
void app_feed(uint8_t byte);

#endif
