/* QEMU TCG plugin: every load and store of a run of the network against what its layer may touch. See guard.py.
 *
 * Arguments: entry=ADDRESS (of model_run), bottom=, top= (the section of the stack), code=FILE, places=FILE, out=FILE.
 * A line of `code` is one instruction: "address owner"; of `places`, what an owner may touch: "owner first end writes",
 * owner SHARED: whoever runs. Besides, the stack below the frame of who called model_run. Each run writes to `out`
 *     violation  pc  address  bytes  store  owner     for the first few
 *     touched  place  first  end                      for every place that was
 *     run  stack_bytes  accesses  violations          at its end */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "qemu_plugin.h"

enum { SHARED = -1, OUTSIDE = -2, INSTRUCTIONS = 1 << 20, PLACES = 1 << 14, REPORTED = 8 };

struct instruction {
    uint64_t address;
    int owner;
};

struct place {
    int owner;
    uint64_t first, end;
    int writes;
    uint64_t lowest, highest; /* touched in this run */
};

static struct instruction code[INSTRUCTIONS]; /* by ascending address */
static size_t code_count;
static struct place places[PLACES];
static size_t place_count;
static uint64_t entry, stack_bottom, stack_section_top;
static FILE *out;

static bool running;
static int current;
static const struct instruction *pushing; /* model_run's first store: its frame begins where the caller's ends */
static bool entered;
static uint64_t stack_top, stack_lowest, accesses, violations;

static void begin(void)
{
    running = true;
    entered = false;
    pushing = NULL;
    current = 0;
    stack_top = 0;
    stack_lowest = stack_section_top;
    accesses = violations = 0;
    for (size_t i = 0; i < place_count; ++i) {
        places[i].lowest = UINT64_MAX;
        places[i].highest = 0;
    }
}

static void finish(void)
{
    running = false;
    for (size_t i = 0; i < place_count; ++i)
        if (places[i].highest != 0)
            fprintf(out, "touched %zu %" PRIu64 " %" PRIu64 "\n", i, places[i].lowest, places[i].highest);
    fprintf(out, "run %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", stack_top - stack_lowest, accesses, violations);
    fflush(out); /* QEMU is killed, not ended */
}

static void executed(unsigned int cpu, void *data)
{
    (void)cpu;
    const struct instruction *now = data;
    if (!running && now->address == entry)
        begin();
    if (!running)
        return;
    if (now->owner == OUTSIDE) {
        finish();
        return;
    }
    if (pushing != NULL && now != pushing)
        entered = true;
    if (now->owner != SHARED)
        current = now->owner;
}

static bool on_stack(const struct instruction *now, uint64_t first, uint64_t end, bool store)
{
    if (first < stack_bottom || end > stack_section_top)
        return false;
    if (!entered && store) {
        pushing = now;
        if (end > stack_top)
            stack_top = end;
    }
    if (end > stack_top)
        return false; /* the caller's */
    if (first < stack_lowest)
        stack_lowest = first;
    return true;
}

static bool in_a_place(uint64_t first, uint64_t end, bool store)
{
    bool found = false;
    for (struct place *place = places; place < places + place_count; ++place) {
        if (place->owner != SHARED && place->owner != current)
            continue;
        if (first < place->first || end > place->end || (store && !place->writes))
            continue;
        found = true;
        if (first < place->lowest)
            place->lowest = first;
        if (end > place->highest)
            place->highest = end;
    }
    return found;
}

static void accessed(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
    (void)cpu;
    if (!running)
        return;
    const struct instruction *now = data;
    const uint64_t bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
    const bool store = qemu_plugin_mem_is_store(info);
    accesses++;
    if (on_stack(now, address, address + bytes, store) || in_a_place(address, address + bytes, store))
        return;
    if (violations++ < REPORTED)
        fprintf(out, "violation %" PRIu64 " %" PRIu64 " %" PRIu64 " %d %d\n", now->address, address, bytes, store,
                current);
}

static struct instruction *find(uint64_t address)
{
    size_t low = 0, high = code_count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (code[middle].address < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < code_count && code[low].address == address ? &code[low] : NULL;
}

/* An instruction that `code` does not have (an interrupt's) may touch anything. */
static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); ++i) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        struct instruction *known = find(qemu_plugin_insn_vaddr(instruction));
        if (known == NULL)
            continue;
        qemu_plugin_register_vcpu_insn_exec_cb(instruction, executed, QEMU_PLUGIN_CB_NO_REGS, known);
        qemu_plugin_register_vcpu_mem_cb(instruction, accessed, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, known);
    }
}

static bool read_code(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    for (struct instruction *i = code; code_count < INSTRUCTIONS; ++i, ++code_count)
        if (fscanf(file, "%" SCNu64 " %d", &i->address, &i->owner) != 2)
            break;
    const bool whole = feof(file);
    fclose(file);
    return whole;
}

static bool read_places(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    for (struct place *p = places; place_count < PLACES; ++p, ++place_count)
        if (fscanf(file, "%d %" SCNu64 " %" SCNu64 " %d", &p->owner, &p->first, &p->end, &p->writes) != 4)
            break;
    const bool whole = feof(file);
    fclose(file);
    return whole;
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    bool code_read = false, places_read = false;
    for (int i = 0; i < argc; ++i) {
        if (sscanf(argv[i], "entry=%" SCNu64, &entry) == 1 || sscanf(argv[i], "bottom=%" SCNu64, &stack_bottom) == 1 ||
            sscanf(argv[i], "top=%" SCNu64, &stack_section_top) == 1)
            continue;
        if (strncmp(argv[i], "code=", 5) == 0)
            code_read = read_code(argv[i] + 5);
        if (strncmp(argv[i], "places=", 7) == 0)
            places_read = read_places(argv[i] + 7);
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
    }
    if (!code_read || !places_read || out == NULL)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
