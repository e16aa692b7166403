/* A TCG plugin for qemu-user: how often each translated block ran between two markers of the guest, exactly.
 *
 * The guest marks with system calls of a number that no kernel has, kMarker: argument 0 starts counting, 1 writes what was counted. `out=` is
 * the file: a line `run`, then a line `<count> <block>` for each block that ran, and at the end `block <block> <word>...` with the
 * instructions of each. Blocks end at branches, so that a loop without branches inside is one block.
 *
 * The interface is version 1 (QEMU 6.0 to 8.2), declared here because Debian has no header of it. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VISIBLE __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb*, enum qemu_plugin_op, void*, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t,
                                          void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                   uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void*), void*);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
const void* qemu_plugin_insn_data(const struct qemu_plugin_insn*);

VISIBLE int qemu_plugin_version = 1;

static const int64_t kMarker = 0x7070;

struct block {
  uint64_t count;
  unsigned index;
  size_t size;
  uint32_t* words;
  struct block* next;
};

static struct block* blocks;
static unsigned block_count;
static FILE* out;

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb* tb) {
  (void)id;
  struct block* b = calloc(1, sizeof *b);
  b->index = block_count++;
  b->size = qemu_plugin_tb_n_insns(tb);
  b->words = malloc(b->size * sizeof *b->words);
  for (size_t i = 0; i < b->size; ++i) memcpy(&b->words[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), sizeof *b->words);
  b->next = blocks;
  blocks = b;
  qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &b->count, 1);
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t end, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
                   uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != kMarker) return;
  if (end) fprintf(out, "run\n");
  for (struct block* b = blocks; b; b = b->next) {
    if (end && b->count) fprintf(out, "%" PRIu64 " %u\n", b->count, b->index);
    b->count = 0;
  }
}

static void finish(qemu_plugin_id_t id, void* data) {
  (void)id, (void)data;
  for (struct block* b = blocks; b; b = b->next) {
    fprintf(out, "block %u", b->index);
    for (size_t i = 0; i < b->size; ++i) fprintf(out, " %08" PRIx32, b->words[i]);
    fputc('\n', out);
  }
  fclose(out);
}

VISIBLE int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "out=", 4) == 0) out = fopen(argv[i] + 4, "w");
  }
  if (!out) return 1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  qemu_plugin_register_atexit_cb(id, finish, NULL);
  return 0;
}
