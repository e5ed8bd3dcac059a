/* What CMSIS asks of a chip. */
#ifndef SOC_H
#define SOC_H

#define __MPU_PRESENT 1
#define __FPU_PRESENT 1

#endif
