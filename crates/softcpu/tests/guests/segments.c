/* Descriptors: every type, level and requested level in every register, by far jumps, calls and returns, through call gates,
 * and what lar, lsl, verr and verw say of them; what is expected is computed as the manual says it. */
#include "guest.h"

#define USER_CODE 0x280000000000ull
#define SLOT 0x98 /* a descriptor of 16 bytes */

enum { ES, CS, SS, DS, FS, GS };

static u8 *text;
static u64 saved[2];

/* Base 0, the whole of memory, and the access byte and flags given. */
static void describe(u8 access, u8 flags) {
  gdt[SLOT / 8] = 0xffffull | (u64)access << 40 | 0xfull << 48 | (u64)flags << 52;
  gdt[SLOT / 8 + 1] = 0;
}

static bool segment(u8 a) { return a & 0x10; }
static bool code(u8 a) { return (a & 0x18) == 0x18; }
static bool conforming(u8 a) { return (a & 0x1c) == 0x1c; }
static bool readable(u8 a) { return segment(a) && (!code(a) || a & 2); }
static bool writable(u8 a) { return segment(a) && !code(a) && a & 2; }
static int level(u8 a) { return a >> 5 & 3; }

/* The exception of a load of a segment register, or -1. */
static int of_load(int which, u8 a, int cpl, int rpl) {
  if (which == SS) {
    if (!writable(a) || level(a) != cpl || rpl != cpl) return 13;
    return a & 0x80 ? -1 : 12;
  }
  if (!readable(a) || (!conforming(a) && (level(a) < cpl || level(a) < rpl))) return 13;
  return a & 0x80 ? -1 : 11;
}

static int load(int which, u16 selector) {
  switch (which) {
    case ES: return TRY("movw %w0, %%es", ::"r"(selector) : "memory");
    case DS: return TRY("movw %w0, %%ds", ::"r"(selector) : "memory");
    case FS: return TRY("movw %w0, %%fs", ::"r"(selector) : "memory");
    case GS: return TRY("movw %w0, %%gs", ::"r"(selector) : "memory");
    default: {
      int vector = TRY("movw %w0, %%ss", ::"r"(selector) : "memory");
      /* Whatever returns from an exception would load it again. */
      asm volatile("movw %w0, %%ss" ::"r"(0x10));
      return vector;
    }
  }
}

/* The same by a user: mov %di, %sreg; int $0x80. */
static int load_by_user(int which, u16 selector) {
  u8 code[] = {0x8e, 0xc7 | which << 3, 0xcd, 0x80};
  for (unsigned i = 0; i < sizeof code; i++) ((volatile u8 *)text)[i] = code[i];
  seen.vector = -1;
  enter_user(USER_CODE, USER_CODE + 0x2000, 0x202, selector);
  return seen.vector;
}

static void loads(void) {
  static const int registers[] = {ES, SS, FS};
  for (int a = 0; a < 256; a++) {
    describe(a, 0xc);
    for (int rpl = 0; rpl < 4; rpl++) {
      for (int i = 0; i < 3; i++) {
        int which = registers[i], wanted = of_load(which, a, 0, rpl);
        equal(load(which, SLOT | rpl), wanted, "a load of a segment register");
        if (wanted >= 0) equal(seen.error, SLOT, "its error");
      }
      if (rpl == 1 || rpl == 2) continue;
      int which = a & 1 ? DS : SS, wanted = of_load(which, a, 3, rpl);
      equal(load_by_user(which, SLOT | rpl), wanted, "a load of a segment register by a user");
      if (wanted >= 0) equal(seen.error, SLOT, "its error");
    }
  }
  /* A load that succeeds says so in the descriptor, one that doesn't leaves it. */
  describe(0x92, 0xc);
  load(ES, SLOT);
  equal(gdt[SLOT / 8] >> 40 & 0xff, 0x93, "accessed");
  describe(0x12, 0xc);
  load(ES, SLOT);
  equal(gdt[SLOT / 8] >> 40 & 0xff, 0x12, "not accessed");
  /* Null selectors: no fault before they are used, but in 64-bit code not even then. */
  for (int rpl = 0; rpl < 4; rpl++) {
    equal(load(DS, rpl), -1, "null in ds");
    equal(load(GS, rpl), -1, "null in gs");
    equal(load(SS, rpl), rpl == 0 ? -1 : 13, "null in ss");
  }
  equal(load_by_user(SS, 3), 13, "null in a user's ss");
  /* The local table, which is empty, and beyond. */
  asm volatile("lldt %w0" ::"r"(0));
  equal(load(ES, 0x0c), 13, "a local table that is not there");
  equal(seen.error, 0x0c, "its error");
  equal(load(ES, 0xfff8), 13, "beyond the table");
  equal(seen.error, 0xfff8, "its error");
  asm volatile("movw %w0, %%es; movw %w0, %%ss; movw %w0, %%ds; movw %w1, %%fs; movw %w1, %%gs" ::"r"(0x10), "r"(0));
}

/* Types that long mode knows of, for lar and lsl. */
static bool shows(u8 a, bool limit) {
  u8 kind = a & 0xf;
  return segment(a) || kind == 2 || kind == 9 || kind == 0xb || (!limit && kind == 0xc);
}

static void asked(void) {
  for (int a = 0; a < 256; a++) {
    describe(a, 0xc);
    for (int rpl = 0; rpl < 4; rpl++) {
      u64 selector = SLOT | rpl, got = 0x5555;
      bool seen_at_all = conforming(a) || level(a) >= rpl, zero;
      asm volatile("larl %w2, %k0; setz %1" : "+r"(got), "=q"(zero) : "r"(selector) : "cc");
      equal(zero, seen_at_all && shows(a, false), "lar");
      /* What it gives of the limit is not said. */
      equal(got & ~0xf0000ull, zero ? 0xc00000 | a << 8 : 0x5555, "what lar gives");
      got = 0x5555;
      asm volatile("lsll %w2, %k0; setz %1" : "+r"(got), "=q"(zero) : "r"(selector) : "cc");
      equal(zero, seen_at_all && shows(a, true), "lsl");
      equal(got, zero ? 0xffffffff : 0x5555, "what lsl gives");
      asm volatile("verr %w1; setz %0" : "=q"(zero) : "r"(selector) : "cc");
      equal(zero, seen_at_all && readable(a), "verr");
      asm volatile("verw %w1; setz %0" : "=q"(zero) : "r"(selector) : "cc");
      equal(zero, seen_at_all && writable(a), "verw");
    }
  }
  bool zero;
  asm volatile("verr %w1; setz %0" : "=q"(zero) : "r"(0) : "cc");
  equal(zero, false, "verr of null");
  u64 got = 7;
  asm volatile("larl %w2, %k0; setz %1" : "+r"(got), "=q"(zero) : "r"(0xfff8) : "cc");
  check(!zero && got == 7, "lar beyond the table");
}

/* The exception of a far transfer to 64-bit code at this level, or -1. */
static int of_code(u8 a, bool returns, int rpl, bool both) {
  if (!code(a)) return 13;
  if (returns ? (conforming(a) ? level(a) > rpl : level(a) != rpl) : (conforming(a) ? level(a) > 0 : level(a) != 0 || rpl > 0)) return 13;
  if (both) return 13;
  return a & 0x80 ? -1 : 11;
}

/* Back to a code segment that stays. */
static void home(void) { asm volatile("pushq $8; pushq $1f; lretq; 1:" ::: "memory"); }

static void transfers(void) {
  static struct {
    u64 offset;
    u16 selector;
  } __attribute__((packed)) far;
  for (int a = 0; a < 256; a++) {
    /* Gates and tasks have their own tests. */
    if (!segment(a)) continue;
    for (int both = 0; both < 2; both++) {
      describe(a, both ? 0xe : 0xa);
      int wanted = of_code(a, true, 0, both);
      equal(TRY_STACK("pushq %0; pushq $9f; lretq", ::"r"((u64)SLOT) : "r12", "memory"), wanted, "a far return");
      home();
      if (wanted >= 0) equal(seen.error, SLOT, "its error");
      equal(TRY_STACK("movq %%rsp, %%rax; pushq $0x10; pushq %%rax; pushfq; pushq %0; pushq $9f; iretq", ::"r"((u64)SLOT) : "r12", "rax", "memory"),
            wanted, "an interrupt's return");
      home();
      if (wanted >= 0) equal(seen.error, SLOT, "its error");
      for (int rpl = 0; rpl < 4; rpl += 3) {
        wanted = of_code(a, false, rpl, both);
        far.selector = SLOT | rpl;
        asm volatile("leaq 1f(%%rip), %%rax; movq %%rax, %0; jmp 2f; 1: jmp *resume; 2:" : "=m"(far.offset)::"rax");
        equal(TRY_STACK("rex.w ljmp *%0", ::"m"(far) : "r12", "memory"), wanted, "a far jump");
        home();
        if (wanted >= 0) equal(seen.error, SLOT, "its error");
        equal(TRY_STACK("rex.w lcall *%0", ::"m"(far) : "r12", "memory"), wanted, "a far call");
        home();
        if (wanted >= 0) equal(seen.error, SLOT, "its error");
      }
    }
  }
  /* Places that are none. */
  far.selector = 8;
  far.offset = 0x800000000000;
  equal(TRY_STACK("rex.w ljmp *%0", ::"m"(far) : "r12", "memory"), 13, "a far jump to a non-canonical address");
  equal(seen.error, 0, "its error");
  equal(TRY_STACK("pushq $8; pushq %0; lretq", ::"r"(0x800000000000) : "r12", "memory"), 13, "a far return to a non-canonical address");
  equal(TRY_STACK("pushq $0; pushq $9f; lretq", ::: "r12", "memory"), 13, "a far return to null");
  equal(seen.error, 0, "its error");
  equal(TRY_STACK("pushq $0x42; pushq $9f; lretq", ::: "r12", "memory"), 13, "a far return to a level that the segment has not");
  equal(seen.error, 0x40, "its error");
  /* To users: the stack is checked as well. */
  static const struct {
    u16 ss;
    int vector;
    u32 error;
  } stacks[] = {{0x3b, -1, 0}, {0x3a, 13, 0x38}, {0x10, 13, 0x10}, {0x13, 13, 0x10}, {0, 13, 0}, {3, 13, 0}, {0x43, 13, 0x40}, {SLOT | 3, 12, SLOT}};
  describe(0x72, 0xc);
  static const u8 back[] = {0xcd, 0x80};
  for (unsigned i = 0; i < sizeof back; i++) ((volatile u8 *)text)[i] = back[i];
  for (unsigned i = 0; i < sizeof stacks / sizeof *stacks; i++) {
    if (stacks[i].vector < 0) continue;
    u64 ss = stacks[i].ss;
    equal(TRY_STACK("pushq %0; pushq %1; pushq $2; pushq $0x43; pushq %1; iretq", ::"r"(ss), "r"(USER_CODE) : "r12", "memory"), stacks[i].vector,
          "a return to a user with a stack that is none");
    equal(seen.error, stacks[i].error, "its error");
    equal(TRY_STACK("pushq %0; pushq %1; pushq $0x43; pushq %1; lretq", ::"r"(ss), "r"(USER_CODE) : "r12", "memory"), stacks[i].vector,
          "a far return to a user with a stack that is none");
    equal(seen.error, stacks[i].error, "its error");
  }
  equal(TRY_STACK("pushfq; orl $0x4000, (%%rsp); popfq; iretq", ::: "r12", "cc", "memory"), 13, "iret with NT in long mode");
  asm volatile("pushfq; andl $~0x4000, (%%rsp); popfq" ::: "cc", "memory");
}

/* A gate of 16 bytes to `entry` in segment `selector`. */
static void make_gate(u8 access, u16 selector, u64 entry) {
  gdt[SLOT / 8] = (entry & 0xffff) | (u64)selector << 16 | (u64)access << 40 | (entry >> 16 & 0xffff) << 48;
  gdt[SLOT / 8 + 1] = entry >> 32;
}

struct arrival {
  u64 cs, ss, rip, old_cs, rsp, old_ss;
};
extern volatile struct arrival arrival;
extern u8 gate_entry[];

asm(R"(
        .data
        .globl arrival
arrival: .fill 6, 8, 0
        .text
        .globl gate_entry
gate_entry:
        movl %cs, %eax
        movq %rax, arrival
        movl %ss, %eax
        movq %rax, arrival + 8
        movq (%rsp), %rax
        movq %rax, arrival + 16
        movq 8(%rsp), %rax
        movq %rax, arrival + 24
        movq 16(%rsp), %rax
        movq %rax, arrival + 32
        movq 24(%rsp), %rax
        movq %rax, arrival + 40
        lretq
)");

/* lcall *(%rdi); int $0x80 */
static int call_by_user(u16 selector) {
  static const u8 code[] = {0xff, 0x1f, 0xcd, 0x80};
  volatile u8 *far = text + 0x80;
  for (unsigned i = 0; i < sizeof code; i++) ((volatile u8 *)text)[i] = code[i];
  for (int i = 0; i < 4; i++) far[i] = 0;
  *(volatile u16 *)(far + 4) = selector;
  seen.vector = -1;
  arrival.cs = 0;
  enter_user(USER_CODE, USER_CODE + 0x2000, 0x202, USER_CODE + 0x80);
  return seen.vector;
}

static void gates(void) {
  u64 entry = (u64)gate_entry;
  make_gate(0xec, 8, entry);
  equal(call_by_user(SLOT | 3), -1, "a call through a gate by a user");
  equal(arrival.cs, 8, "the kernel's code");
  equal(arrival.ss, 0, "no stack segment");
  equal(arrival.rip, USER_CODE + 2, "where it goes on");
  equal(arrival.old_cs, 0x43, "the user's code");
  equal(arrival.rsp, USER_CODE + 0x2000, "the user's stack");
  equal(arrival.old_ss, 0x3b, "the user's stack segment");
  static const struct {
    u8 access;
    u16 code;
    int vector;
    u32 error;
    const char *what;
  } cases[] = {
      {0x8c, 8, 13, SLOT, "a gate of the kernel"},
      {0xcc, 8, 13, SLOT, "a gate of the second level"},
      {0x6c, 8, 11, SLOT, "a gate that is not present"},
      {0xec, 0, 13, 0, "a gate to null"},
      {0xec, 0x10, 13, 0x10, "a gate to data"},
      {0xec, 0x18, 13, 0x18, "a gate to 32-bit code"},
      {0xec, 0x88, 11, 0x88, "a gate to code that is not present"},
      {0xec, 0xff0, 13, 0xff0, "a gate beyond the table"},
      {0xe4, 8, 13, SLOT, "a gate of 16 bits"},
      {0xe5, 8, 13, SLOT, "a task gate"},
      {0xee, 8, 13, SLOT, "an interrupt's gate"},
      {0xe9, 8, 13, SLOT, "a task"},
  };
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
    make_gate(cases[i].access, cases[i].code, entry);
    equal(call_by_user(SLOT | 3), cases[i].vector, cases[i].what);
    equal(seen.error, cases[i].error, cases[i].what);
    equal(arrival.cs, 0, cases[i].what);
  }
  make_gate(0xec, 8, 0x800000000000);
  equal(call_by_user(SLOT | 3), 13, "a gate to a non-canonical address");
  equal(seen.error, 0, "its error");
  make_gate(0xec, 8, entry);
  gdt[SLOT / 8 + 1] |= 0x8ull << 40;
  equal(call_by_user(SLOT | 3), 13, "a gate whose second half has a type");
  equal(seen.error, SLOT, "its error");
  /* The kernel's stack is no address, and is not there. */
  u64 *stack = (u64 *)(tss[0] + 4), old = *stack;
  make_gate(0xec, 8, entry);
  *stack = 0x800000000000;
  gate(12, (u64)stubs + 32 * 12, 0, 2);
  equal(call_by_user(SLOT | 3), 12, "a gate to a stack that is no address");
  equal(seen.error, 0, "its error");
  gate(12, (u64)stubs + 32 * 12, 0, 0);
  *stack = USER_CODE + 0x8000;
  gate(14, (u64)stubs + 32 * 14, 0, 2);
  equal(call_by_user(SLOT | 3), 14, "a gate to a stack that is not there");
  equal(seen.error, 2, "its error");
  gate(14, (u64)stubs + 32 * 14, 0, 0);
  *stack = old;
  /* By the kernel: no other level, and so no other stack. */
  struct {
    u32 offset;
    u16 selector;
  } __attribute__((packed)) far = {0, SLOT};
  make_gate(0x8c, 8, entry);
  u64 before;
  asm volatile("movq %%rsp, %0" : "=r"(before));
  equal(TRY_STACK("lcall *%0", ::"m"(far) : "r12", "rax", "memory"), -1, "a call through a gate by the kernel");
  equal(arrival.old_cs, 8, "the kernel's code");
  equal(arrival.ss, 0x10, "the kernel's stack");
}

/* Interrupts' stacks: by the table, aligned, and not there. */
static volatile u64 arrived_at;

static void on_stack(struct frame *f) { arrived_at = (u64)f; }

static void stacks(void) {
  u64 *slots = (u64 *)(tss[0] + 0x24), old[3] = {slots[0], slots[1], slots[2]};
  handlers[0x57] = on_stack;
  for (int i = 1; i < 8; i++) {
    u64 top = i < 4 ? old[i - 1] : old[1];
    *(u64 *)(tss[0] + 0x24 + 8 * (i - 1)) = top - 3;
    gate(0x57, (u64)stubs + 32 * 0x57, 0, i);
    u64 before;
    asm volatile("movq %%rsp, %0; int $0x57" : "=r"(before)::"memory");
    equal(arrived_at + sizeof(struct frame), (top - 3) & ~15ull, "a stack of the table, aligned");
  }
  for (int i = 0; i < 7; i++) *(u64 *)(tss[0] + 0x24 + 8 * i) = i < 3 ? old[i] : 0;
  /* Without one the stack goes on, aligned. */
  gate(0x57, (u64)stubs + 32 * 0x57, 0, 0);
  u64 before;
  asm volatile("movq %%rsp, %%r12; subq $3, %%rsp; movq %%rsp, %0; int $0x57; movq %%r12, %%rsp" : "=r"(before)::"r12", "memory");
  equal(arrived_at + sizeof(struct frame), before & ~15ull, "the same stack, aligned");
  slots[2] = 0x800000000000;
  gate(0x57, (u64)stubs + 32 * 0x57, 0, 3);
  equal(TRY("int $0x57", ::: "memory"), 12, "a stack that is no address");
  equal(seen.error, 0, "its error");
  slots[2] = USER_CODE + 0x8000;
  equal(TRY("int $0x57", ::: "memory"), 14, "a stack that is not there");
  equal(seen.error, 2, "its error");
  equal(seen.cr2, USER_CODE + 0x7ff8, "its address");
  /* A fault whose stack is not there is a double one: #PF after #PF, #GP after #GP, but not #PF after #UD. */
  gate(14, (u64)stubs + 32 * 14, 0, 3);
  equal(TRY("movb (%0), %%al", ::"r"(USER_CODE + 0x9000) : "rax", "memory"), 8, "a page fault in a page fault");
  gate(14, (u64)stubs + 32 * 14, 0, 0);
  gate(13, (u64)stubs + 32 * 13, 0, 3);
  equal(TRY("movb (%0), %%al", ::"r"(0x800000000000) : "rax", "memory"), 14, "a page fault in a protection fault");
  slots[2] = 0x800000000000;
  equal(TRY("movb (%0), %%al", ::"r"(0x800000000000) : "rax", "memory"), 8, "a stack fault in a protection fault");
  equal(seen.error, 0, "its error");
  gate(13, (u64)stubs + 32 * 13, 0, 0);
  gate(6, (u64)stubs + 32 * 6, 0, 3);
  equal(TRY("ud2", ::: "memory"), 12, "a stack fault in an invalid instruction");
  gate(6, (u64)stubs + 32 * 6, 0, 0);
  gate(0, (u64)stubs, 0, 3);
  equal(TRY("divl %%ecx", ::"a"(1), "c"(0), "d"(0) : "cc", "memory"), 8, "a stack fault in a division");
  gate(0, (u64)stubs, 0, 0);
  slots[2] = old[2];
  handlers[0x57] = 0;
  gate(0x57, (u64)stubs + 32 * 0x57, 0, 0);
}

void test_segments(void) {
  saved[0] = gdt[SLOT / 8];
  saved[1] = gdt[SLOT / 8 + 1];
  text = fresh_page();
  map(USER_CODE, (u64)text, P | W | U);
  map(USER_CODE + 0x1000, (u64)fresh_page(), P | W | U | NX);
  loads();
  asked();
  transfers();
  gates();
  stacks();
  gdt[SLOT / 8] = saved[0];
  gdt[SLOT / 8 + 1] = saved[1];
}
