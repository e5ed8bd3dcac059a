/* The firmware's main loop: answers requests on the link for ever. */
#ifndef APP_H
#define APP_H

void app_run(void) __attribute__((noreturn));

#endif
