/* STM32F103 (ST RM0008, 3.3.3 for the flash, chapters 7 for RCC, 9 for GPIO): CORE_HZ from an 8 MHz crystal, the UART's pins. Where
 * crystal or PLL do not come up (QEMU models no RCC) everything stays on the 8 MHz of HSI. */
#include "board.h"
#include "stm32.h"

#define RCC_CR 0x40021000u
#define RCC_CFGR 0x40021004u
#define RCC_APB2ENR 0x40021018u
#define FLASH_ACR 0x40022000u
#define GPIOA 0x40010800u
#define GPIO_PORT_BYTES 0x400u
#define GPIO_CR(pin) (4u * ((pin) / 8u))
#define GPIO_BSRR 0x10u

#define HSI_HZ 8000000u
#define HSE_HZ 8000000u
#define PLL_FACTOR (CORE_HZ / HSE_HZ)
_Static_assert(CORE_HZ > 48000000u && CORE_HZ <= 72000000u && CORE_HZ % HSE_HZ == 0, "2 wait states are for these");

#define CR_HSION (1u << 0)
#define CR_HSEON (1u << 16)
#define CR_HSERDY (1u << 17)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
#define CFGR_APB1_DIV2 (4u << 8) /* at most 36 MHz */
#define CFGR_PLLSRC_HSE (1u << 16)
#define CFGR_PLLMUL ((PLL_FACTOR - 2u) << 18)
#define CFGR_SW_MASK 3u
#define CFGR_SW_PLL 2u
#define CFGR_SWS_MASK (3u << 2)
#define CFGR_SWS_HSI (0u << 2)
#define CFGR_SWS_PLL (2u << 2)
#define ACR_2_WAIT_STATES 2u
#define ACR_LATENCY_MASK 7u
#define ACR_PREFETCH (1u << 4)
#define APB2ENR_IOPAEN 2u
#define CR_ALTERNATE_PUSH_PULL 11u /* 50 MHz */
#define CR_INPUT_PULLED 8u         /* up or down as the output bit says */

static void stop_pll(void)
{
    change(RCC_CR, CR_HSION, CR_HSION);
    change(RCC_CFGR, CFGR_SW_MASK, 0);
    wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_HSI);
    change(RCC_CR, CR_PLLON, 0);
    wait_for(RCC_CR, CR_PLLRDY, 0);
    REGISTER(RCC_CFGR) = 0;
}

static bool start_pll(void)
{
    change(RCC_CR, CR_HSEON, CR_HSEON);
    if (!wait_for(RCC_CR, CR_HSERDY, CR_HSERDY))
        return false;
    REGISTER(RCC_CFGR) = CFGR_APB1_DIV2 | CFGR_PLLSRC_HSE | CFGR_PLLMUL;
    change(RCC_CR, CR_PLLON, CR_PLLON);
    if (!wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY))
        return false;
    REGISTER(FLASH_ACR) = ACR_PREFETCH | ACR_2_WAIT_STATES;
    if (!wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_2_WAIT_STATES))
        return false;
    change(RCC_CFGR, CFGR_SW_MASK, CFGR_SW_PLL);
    return wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_PLL);
}

static void pin_mode(uint32_t port, uint32_t pin, uint32_t mode)
{
    change(port + GPIO_CR(pin), 15u << 4u * (pin % 8u), mode << 4u * (pin % 8u));
}

struct clocks chip_init(void)
{
    const uint32_t port = GPIOA + UART_PORT * GPIO_PORT_BYTES;
    const struct clocks full = {.core_hz = CORE_HZ, .uart_hz = UART_BASE < APB2_BASE ? CORE_HZ / 2u : CORE_HZ};
    const struct clocks clocks = start_clocks(stop_pll, start_pll, full, HSI_HZ);
    enable(RCC_APB2ENR, APB2ENR_IOPAEN + UART_PORT);
    enable(UART_ENABLE, UART_ENABLE_BIT);
    REGISTER(port + GPIO_BSRR) = 1u << UART_RX; /* up: an unconnected line is idle */
    pin_mode(port, UART_RX, CR_INPUT_PULLED);
    pin_mode(port, UART_TX, CR_ALTERNATE_PUSH_PULL);
    return clocks;
}
