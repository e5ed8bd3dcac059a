/* QEMU TCG plugin: executed instructions and modelled cycles of each run of the network, by owner. See counter.py.
 *
 * Arguments: entry=ADDRESS (of model_run), code=FILE, out=FILE. A line of `code` is one instruction:
 *     address  bytes  cost  is_load  is_transfer  owner
 * in decimal. `owner` is where its executions are counted: 0 and up; SHARED: with what ran before it; OUTSIDE: it ends
 * the run. Each run adds a line to `out`: "instructions cycles" of owner 0, 1, ... */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "qemu_plugin.h"

enum { SHARED = -1, OUTSIDE = -2, OWNERS = 1024, INSTRUCTIONS = 1 << 20 };

struct instruction {
    uint64_t address, bytes, cost;
    int is_load, is_transfer, owner;
};

static struct instruction code[INSTRUCTIONS]; /* by ascending address */
static size_t code_count;
static uint64_t entry;
static FILE *out;

static bool running;
static int current;
static const struct instruction *last;
static uint64_t instructions[OWNERS], cycles[OWNERS];
static int owners;

static void begin(void)
{
    running = true;
    current = 0;
    last = NULL;
    memset(instructions, 0, sizeof instructions);
    memset(cycles, 0, sizeof cycles);
}

static void finish(void)
{
    running = false;
    for (int i = 0; i < owners; ++i)
        fprintf(out, "%" PRIu64 " %" PRIu64 "%c", instructions[i], cycles[i], i + 1 < owners ? ' ' : '\n');
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
    if (last != NULL && last->address + last->bytes != now->address)
        cycles[current] += 2; /* a branch was taken */
    if (now->owner == OUTSIDE) {
        finish();
        return;
    }
    if (now->owner != SHARED)
        current = now->owner;
    instructions[current]++;
    cycles[current] += now->cost;
    if (now->is_load && !(last != NULL && last->is_transfer))
        cycles[current]++; /* directly behind another load or store, the pipeline hides it */
    last = now;
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

/* An instruction that `code` does not have (an interrupt's) goes uncounted. */
static void translated(uint64_t id, struct qemu_plugin_tb *block)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); ++i) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        struct instruction *known = find(qemu_plugin_insn_vaddr(instruction));
        if (known != NULL)
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, executed, QEMU_PLUGIN_CB_NO_REGS, known);
    }
}

static bool read_code(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    for (struct instruction *i = code; code_count < INSTRUCTIONS; ++i, ++code_count) {
        if (fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %d %d %d", &i->address, &i->bytes, &i->cost, &i->is_load,
                   &i->is_transfer, &i->owner) != 6)
            break;
        if (i->owner >= owners)
            owners = i->owner + 1;
    }
    const bool whole = feof(file) && owners <= OWNERS;
    fclose(file);
    return whole;
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    bool read = false;
    for (int i = 0; i < argc; ++i) {
        if (sscanf(argv[i], "entry=%" SCNu64, &entry) == 1)
            continue;
        if (strncmp(argv[i], "code=", 5) == 0)
            read = read_code(argv[i] + 5);
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
    }
    if (!read || out == NULL)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
