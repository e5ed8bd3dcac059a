/* The Cortex-M7's caches (Arm ARMv7-M Architecture Reference Manual, B3.2 and B4.8). Nothing here uses DMA, so that no memory has to
 * be kept out of them or cleaned. */
#ifndef CORTEX_M7_H
#define CORTEX_M7_H

#include "cortex_m.h"

#define SCB_CCR 0xE000ED14u
#define SCB_CCSIDR 0xE000ED80u
#define SCB_CSSELR 0xE000ED84u
#define SCB_ICIALLU 0xE000EF50u
#define SCB_DCISW 0xE000EF60u

#define CCR_DC (1u << 16)
#define CCR_IC (1u << 17)
#define CCSIDR_SETS(value) ((value) >> 13 & 0x7FFFu) /* less one */
#define CCSIDR_WAYS(value) ((value) >> 3 & 0x3FFu)   /* less one */
#define DCISW_SET_SHIFT 5u  /* lines of 32 bytes */
#define DCISW_WAY_SHIFT 30u /* four ways */

/* From a reset or a running program: what a cache that is on holds dirty would be lost, so that one stays as it is. */
static inline void caches_on(void)
{
    if (!(REGISTER(SCB_CCR) & CCR_IC)) {
        REGISTER(SCB_ICIALLU) = 0;
        barrier();
        REGISTER(SCB_CCR) = REGISTER(SCB_CCR) | CCR_IC;
        barrier();
    }
    if (!(REGISTER(SCB_CCR) & CCR_DC)) {
        REGISTER(SCB_CSSELR) = 0; /* level 1, data */
        barrier();
        const uint32_t shape = REGISTER(SCB_CCSIDR);
        for (uint32_t set = 0; set <= CCSIDR_SETS(shape); ++set)
            for (uint32_t way = 0; way <= CCSIDR_WAYS(shape); ++way)
                REGISTER(SCB_DCISW) = way << DCISW_WAY_SHIFT | set << DCISW_SET_SHIFT;
        barrier();
        REGISTER(SCB_CCR) = REGISTER(SCB_CCR) | CCR_DC;
        barrier();
    }
}

#endif
