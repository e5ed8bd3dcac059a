/* What the port's files have of each other. */
#ifndef PLATFORM_H
#define PLATFORM_H

void serial_init(void);
void serial_pause(void);  /* no interrupt for bytes that arrive: they may be lost */
void serial_resume(void);

#endif
