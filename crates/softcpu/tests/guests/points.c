/* Breakpoints of every kind and length, at every distance, and single steps over what changes levels and flags. */
#include "guest.h"

#define QUIET 0xffff0ff0ull
#define STEP (1ull << 14)
#define USER_CODE 0x290000000000ull

static volatile u64 at[16], status[16];
static volatile int n;
static volatile u8 data[64] __attribute__((aligned(64)));

static void on_debug(struct frame *f) {
  if (n < 16) {
    at[n] = f->rip;
    status[n] = dr6();
  }
  n++;
  set_dr6(QUIET);
  if (n > 14) f->rflags &= ~0x100ull;
  /* A breakpoint on an instruction would meet again. */
  if (status[n - 1] & 15 && !(dr7() >> 16 & 0xffff)) f->rflags |= 1 << 16;
}

static void arm(int number, u64 address, u64 kind, u64 length) {
  if (number == 0) asm volatile("movq %0, %%dr0" ::"r"(address));
  if (number == 1) asm volatile("movq %0, %%dr1" ::"r"(address));
  if (number == 2) asm volatile("movq %0, %%dr2" ::"r"(address));
  if (number == 3) asm volatile("movq %0, %%dr3" ::"r"(address));
  set_dr6(QUIET);
  set_dr7(0x400 | 2ull << 2 * number | kind << (16 + 4 * number) | length << (18 + 4 * number));
  n = 0;
}

static void off(void) { set_dr7(0x400); }

enum way { READ, WRITE, BOTH };

static void touch(enum way way, int size, volatile u8 *p) {
  u64 v = 0;
  switch (way * 16 + size) {
    case READ * 16 + 1: asm volatile("movb (%1), %b0" : "+r"(v) : "r"(p) : "memory"); break;
    case READ * 16 + 2: asm volatile("movw (%1), %w0" : "+r"(v) : "r"(p) : "memory"); break;
    case READ * 16 + 4: asm volatile("movl (%1), %k0" : "+r"(v) : "r"(p) : "memory"); break;
    case READ * 16 + 8: asm volatile("movq (%1), %0" : "+r"(v) : "r"(p) : "memory"); break;
    case WRITE * 16 + 1: asm volatile("movb %b0, (%1)" ::"r"(v), "r"(p) : "memory"); break;
    case WRITE * 16 + 2: asm volatile("movw %w0, (%1)" ::"r"(v), "r"(p) : "memory"); break;
    case WRITE * 16 + 4: asm volatile("movl %k0, (%1)" ::"r"(v), "r"(p) : "memory"); break;
    case WRITE * 16 + 8: asm volatile("movq %0, (%1)" ::"r"(v), "r"(p) : "memory"); break;
    case BOTH * 16 + 1: asm volatile("addb $0, (%0)" ::"r"(p) : "memory", "cc"); break;
    case BOTH * 16 + 2: asm volatile("addw $0, (%0)" ::"r"(p) : "memory", "cc"); break;
    case BOTH * 16 + 4: asm volatile("addl $0, (%0)" ::"r"(p) : "memory", "cc"); break;
    case BOTH * 16 + 8: asm volatile("addq $0, (%0)" ::"r"(p) : "memory", "cc"); break;
  }
}

/* Every length at every distance of every access: met where they have a byte in common. */
static void lengths(void) {
  static const u64 coded[9] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
  for (int length = 1; length <= 8; length *= 2) {
    for (int writes_only = 0; writes_only < 2; writes_only++) {
      int number = (length / 2 + writes_only) & 3;
      arm(number, (u64)data + 16, writes_only ? 1 : 3, coded[length]);
      for (int size = 1; size <= 8; size *= 2) {
        for (int from = 4; from < 32; from += from > 12 && from < 27 ? 1 : 4) {
          for (enum way way = READ; way <= BOTH; way++) {
            n = 0;
            touch(way, size, data + from);
            bool common = from < 16 + length && from + size > 16, met = common && !(writes_only && way == READ);
            equal(n, met, "a breakpoint on data");
            if (met && n) equal(status[0], QUIET | 1 << number, "which one it was");
          }
        }
      }
      off();
    }
  }
  /* The address's low bits that are within the length don't count. */
  arm(0, (u64)data + 16 + 3, 1, 3);
  touch(WRITE, 1, data + 16);
  equal(n, 1, "a breakpoint at an odd address begins where its length does");
  off();
}

static void other_ways(void) {
  u64 sp;
  /* The stack, strings, vectors, a push and a call. */
  arm(3, (u64)data + 16, 1, 2);
  asm volatile("movq %%rsp, %0; leaq 24(%1), %%rsp; pushq $5; movq %0, %%rsp" : "=&r"(sp) : "r"(data) : "memory");
  equal(n, 1, "a push");
  n = 0;
  asm volatile("movq %%rsp, %0; leaq 24(%1), %%rsp; call 1f; 1: movq %0, %%rsp" : "=&r"(sp) : "r"(data) : "memory");
  equal(n, 1, "a call");
  n = 0;
  u64 to = (u64)data, count = 6;
  asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(0) : "memory");
  check(n == 1 || n == 2, "a fill"); /* at the iteration, or when all is done */
  n = 0;
  asm volatile("movups %%xmm0, (%0)" ::"r"(data + 8) : "memory");
  equal(n, 1, "sixteen bytes");
  n = 0;
  asm volatile("movups (%0), %%xmm0" ::"r"(data + 8) : "memory");
  equal(n, 0, "sixteen bytes that are read");
  off();
  /* Two at once. */
  asm volatile("movq %0, %%dr0; movq %0, %%dr1" ::"r"(data));
  set_dr6(QUIET);
  set_dr7(0x400 | 10 | 1 << 16 | 3 << 20);
  n = 0;
  touch(WRITE, 1, data);
  equal(n, 1, "two breakpoints are one exception");
  equal(status[0], QUIET | 3, "both are told");
  off();
  /* What is not switched on. */
  set_dr7(0x400 | 3 << 16);
  n = 0;
  touch(WRITE, 1, data);
  equal(n, 0, "a breakpoint that is off");
  off();
  /* On ports, with CR4.DE. */
  set_cr4(cr4() | 8);
  arm(2, 0x80, 2, 0);
  asm volatile("outb %%al, $0x80" ::"a"(0));
  equal(n, 1, "a breakpoint on a port");
  equal(status[0], QUIET | 4, "which one it was");
  n = 0;
  asm volatile("outb %%al, $0x84" ::"a"(0));
  equal(n, 0, "another port");
  asm volatile("inb $0x80, %%al" ::: "rax");
  equal(n, 1, "a port that is read");
  n = 0;
  to = (u64)data;
  count = 2;
  asm volatile("rep insb" : "+D"(to), "+c"(count) : "d"(0x80) : "memory");
  check(n == 1 || n == 2, "a port that a string is read from");
  n = 0;
  set_cr4(cr4() & ~8ull);
  asm volatile("outb %%al, $0x80" ::"a"(0));
  equal(n, 0, "no breakpoints on ports without CR4.DE");
  off();
}

/* mov, or what changes levels, under TF. */
static u8 *text;

static u64 user(const u8 *code, unsigned length, u64 flags) {
  for (unsigned i = 0; i < length; i++) ((volatile u8 *)text)[i] = code[i];
  n = 0;
  set_dr6(QUIET);
  seen.vector = -1;
  return enter_user(USER_CODE, USER_CODE + 0x2000, flags, USER_CODE + 0x1000);
}

extern u8 points_entry[];
asm("points_entry: nop; sysretq");

static void levels(void) {
  static const u8 plain[] = {0x90, 0x90, 0xcd, 0x80};
  user(plain, sizeof plain, 0x302);
  equal(n, 2, "a user's steps");
  equal(at[0], USER_CODE + 1, "the first step");
  equal(at[1], USER_CODE + 2, "the second step");
  equal(status[0], QUIET | STEP, "a step");
  static const u8 call[] = {0x0f, 0x05, 0x90, 0xcd, 0x80};
  u64 star = rdmsr(0xc0000081), entry = rdmsr(0xc0000082), mask = rdmsr(0xc0000084);
  wrmsr(0xc0000081, 0x33ull << 48 | 0x08ull << 32);
  wrmsr(0xc0000082, (u64)points_entry);
  for (int masked = 0; masked < 2; masked++) {
    wrmsr(0xc0000084, masked ? 0x100 : 0);
    user(call, sizeof call, 0x302);
    /* Masked: the step comes behind sysret, which brings the flag back, and what follows it. */
    int first = masked ? 0 : 2;
    if (!masked) {
      equal(at[0], (u64)points_entry, "a step over syscall");
      equal(at[1], (u64)points_entry + 1, "a step in the kernel");
    }
    equal(at[first], USER_CODE + 2, "a step over sysret");
    equal(at[first + 1], USER_CODE + 3, "a step behind sysret");
    equal(n, first + 2, "steps over a system call");
  }
  wrmsr(0xc0000081, star);
  wrmsr(0xc0000082, entry);
  wrmsr(0xc0000084, mask);
  /* popf that clears the flag is still stepped over, one that sets it is not. */
  static const u8 clears[] = {0x9c, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d, 0x90, 0xcd, 0x80};
  user(clears, sizeof clears, 0x302);
  equal(n, 3, "steps up to popf");
  equal(at[2], USER_CODE + 9, "the last step");
  static const u8 sets[] = {0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90, 0xcd, 0x80};
  user(sets, sizeof sets, 0x202);
  equal(n, 1, "steps behind popf");
  equal(at[0], USER_CODE + 10, "the first step is behind the next instruction");
  /* An exception's handler is not stepped through, and its return goes on with steps. */
  static const u8 invalid[] = {0x90, 0x0f, 0x0b};
  user(invalid, sizeof invalid, 0x302);
  equal(seen.vector, 6, "ud2 under steps");
  equal(n, 1, "steps in front of a fault");
  check(seen.rflags & 0x100, "the flag in the frame");
  /* A breakpoint on data and a step are one exception. */
  arm(1, USER_CODE + 0x1000, 1, 0);
  static const u8 store[] = {0xc6, 0x07, 1, 0x90, 0xcd, 0x80};
  for (unsigned i = 0; i < sizeof store; i++) ((volatile u8 *)text)[i] = store[i];
  enter_user(USER_CODE, USER_CODE + 0x2000, 0x302, USER_CODE + 0x1000);
  equal(n, 2, "a step with a breakpoint, and another");
  equal(status[0], QUIET | STEP | 2, "both are told");
  equal(status[1], QUIET | STEP, "the step alone");
  off();
  /* On an instruction of a user, and RF, by which it goes on. */
  arm(0, USER_CODE + 1, 0, 0);
  user(plain, sizeof plain, 0x202);
  equal(n, 1, "a breakpoint on a user's instruction");
  equal(at[0], USER_CODE + 1, "it is a fault");
  equal(status[0], QUIET | 1, "which one it was");
  off();
}

/* A load of ss holds a breakpoint back until the next instruction is done. */
static void held_back(void) {
  u64 s;
  static volatile u16 selector = 0x10;
  arm(0, (u64)&selector, 3, 1);
  asm volatile("movw %1, %%ss\n 1: nop\n 2: nop\n leaq 2b(%%rip), %0" : "=r"(s) : "m"(selector) : "memory");
  equal(n, 1, "a breakpoint on the selector that ss gets");
  equal(at[0], s, "behind the next instruction");
  equal(status[0], QUIET | 1, "which one it was");
  off();
}

static void bits(void) {
  u64 v = 0x1234567890;
  asm volatile("movq %0, %%dr3" ::"r"(v));
  asm volatile("movq %%dr3, %0" : "=r"(v));
  equal(v, 0x1234567890, "a debug register has 64 bits");
  set_dr6(0);
  equal(dr6(), QUIET, "DR6 with nothing set");
  set_dr6(0xffffffff);
  equal(dr6(), 0xffffffff & ~(1 << 12), "DR6 with all set");
  set_dr6(QUIET);
  set_dr7(0);
  equal(dr7(), 0x400, "DR7 with nothing set");
  /* A local breakpoint as good as a global one. */
  asm volatile("movq %0, %%dr0" ::"r"(data));
  set_dr7(0x400 | 1 | 1 << 16);
  n = 0;
  touch(WRITE, 1, data);
  equal(n, 1, "a local breakpoint");
  off();
}

void test_points(void) {
  handlers[1] = on_debug;
  /* A stack of its own: some of these tests have the stack where the data are. */
  gate(1, (u64)stubs + 32, 0, 2);
  text = fresh_page();
  map(USER_CODE, (u64)text, P | W | U);
  map(USER_CODE + 0x1000, (u64)fresh_page(), P | W | U | NX);
  lengths();
  other_ways();
  levels();
  held_back();
  bits();
  handlers[1] = 0;
  gate(1, (u64)stubs + 32, 0, 0);
  set_dr6(QUIET);
}
