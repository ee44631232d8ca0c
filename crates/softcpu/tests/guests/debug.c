/* Single steps, breakpoints, and what DR6 says. */
#include "guest.h"

#define QUIET 0xffff0ff0ull
#define STEP (QUIET | 1 << 14)

static volatile u64 at[16], status[16];
static volatile int n;
static volatile u64 resume_flag;

static void on_debug(struct frame *f) {
  if (n < 16) {
    at[n] = f->rip;
    status[n] = dr6();
  }
  n++;
  if (dr6() & 4) f->rflags |= 1 << 16;
  if (n > 12) {
    f->rflags &= ~0x100ull;
    set_dr7(0x400);
  }
}

static void expect(int count, const u64 *where, const u64 *what, const char *name) {
  equal(n, count, name);
  for (int i = 0; i < count; i++) {
    equal(at[i], where[i], name);
    equal(status[i], what[i], name);
  }
}

#define BEGIN "pushfq; orq $0x100, (%%rsp); popfq\n"
#define END "pushfq; andq $~0x100, (%%rsp)\n"

static void steps(void) {
  u64 s;
  n = 0;
  set_dr6(QUIET);
  asm volatile(BEGIN "nop\n 1: pushfq; andq $~0x100, (%%rsp); popfq; leaq 1b(%%rip), %0" : "=r"(s)::"cc", "memory");
  expect(4, (u64[]){s, s + 1, s + 9, s + 10}, (u64[]){STEP, STEP, STEP, STEP}, "single steps");
  n = 0;
  set_dr6(QUIET);
  asm volatile("xorl %%eax, %%eax\n" BEGIN "cpuid\n 1: inb $0x80, %%al\n pushfq; andq $~0x100, (%%rsp); popfq; leaq 1b(%%rip), %0"
               : "=r"(s)::"cc", "memory", "rax", "rbx", "rcx", "rdx");
  expect(5, (u64[]){s, s + 2, s + 3, s + 11, s + 12}, (u64[]){STEP, STEP, STEP, STEP, STEP}, "single steps over what traps");
  /* What sti holds back is not this; what a load of ss holds back is. */
  n = 0;
  set_dr6(QUIET);
  asm volatile("cli\n" BEGIN "sti\n 1: nop; pushfq; andq $~0x100, (%%rsp); popfq; cli; leaq 1b(%%rip), %0" : "=r"(s)::"cc", "memory");
  expect(5, (u64[]){s, s + 1, s + 2, s + 10, s + 11}, (u64[]){STEP, STEP, STEP, STEP, STEP}, "a single step over sti");
  n = 0;
  set_dr6(QUIET);
  asm volatile("movl %%ss, %%eax\n" BEGIN "movw %%ax, %%ss; nop\n 1: pushfq; andq $~0x100, (%%rsp); popfq; leaq 1b(%%rip), %0"
               : "=r"(s)::"cc", "memory", "rax");
  expect(4, (u64[]){s, s + 1, s + 9, s + 10}, (u64[]){STEP, STEP, STEP, STEP}, "a single step over mov ss");
  /* int1 says nothing in DR6, and ends the step. */
  n = 0;
  set_dr6(QUIET);
  asm volatile(BEGIN ".byte 0xf1\n 1: pushfq; andq $~0x100, (%%rsp); popfq; leaq 1b(%%rip), %0" : "=r"(s)::"cc", "memory");
  expect(4, (u64[]){s, s + 1, s + 9, s + 10}, (u64[]){QUIET, STEP, STEP, STEP}, "int1 in single steps");
  n = 0;
  set_dr6(QUIET);
  asm volatile(BEGIN "int $0x43\n 1: pushfq; andq $~0x100, (%%rsp); popfq; leaq 1b(%%rip), %0" : "=r"(s)::"cc", "memory");
  expect(3, (u64[]){s + 1, s + 9, s + 10}, (u64[]){STEP, STEP, STEP}, "int n ends the step");
  /* A step through a string is one an iteration. */
  static u8 buffer[4];
  u64 dst = (u64)buffer, count = 3;
  n = 0;
  set_dr6(QUIET);
  asm volatile(BEGIN "2: rep stosb\n 1: pushfq; andq $~0x100, (%%rsp); popfq; leaq 1b(%%rip), %0"
               : "=r"(s), "+D"(dst), "+c"(count)
               : "a"(7)
               : "cc", "memory");
  expect(6, (u64[]){s - 2, s - 2, s, s + 1, s + 9, s + 10}, (u64[]){STEP, STEP, STEP, STEP, STEP, STEP}, "steps through a string");
  /* A halt is over with its step. */
  n = 0;
  set_dr6(QUIET);
  asm volatile(BEGIN "hlt\n 1: pushfq; andq $~0x100, (%%rsp); popfq; leaq 1b(%%rip), %0" : "=r"(s)::"cc", "memory");
  expect(4, (u64[]){s, s + 1, s + 9, s + 10}, (u64[]){STEP, STEP, STEP, STEP}, "a step over a halt");
}

static void code_points(void) {
  u64 s;
  n = 0;
  asm volatile("leaq 1f(%%rip), %0" : "=r"(s));
  asm volatile("leaq 1f(%%rip), %%rax; movq %%rax, %%dr2; movl $0x420, %%eax; movq %%rax, %%dr7\n"
               "movl $0xffff4ff2, %%eax; movq %%rax, %%dr6; xorl %%ecx, %%ecx\n"
               "1: incl %%ecx\n leaq 1b(%%rip), %0; movq %%rcx, %1" : "=r"(s), "=m"(resume_flag)::"rax", "rcx", "cc", "memory");
  expect(1, (u64[]){s}, (u64[]){QUIET | 1 << 14 | 4}, "a breakpoint");
  equal(resume_flag, 1, "the instruction ran once");
  set_dr7(0x400);
  asm volatile("jmp 2f\n 1: nop\n jmp 3f\n 2: leaq 1b(%%rip), %%rax; movq %%rax, %%dr0; movl $0x403, %%eax; movq %%rax, %%dr7; jmp 1b\n 3:" ::: "rax", "memory");
  check(n == 13 || n > 1, "a breakpoint without RF meets again");
  set_dr7(0x400);
}

static volatile u64 target[2] __attribute__((aligned(16)));

static void data_points(void) {
  u64 s;
  set_dr1((u64)&target[0]);
  set_dr6(QUIET | 1 << 14);
  set_dr7(0x400 | 2 << 2 | 0xdull << 20); /* writes of 4 bytes */
  n = 0;
  asm volatile("movl $42, target\n 1: leaq 1b(%%rip), %0" : "=r"(s)::"memory");
  expect(1, (u64[]){s}, (u64[]){QUIET | 1 << 14 | 2}, "a write");
  n = 0;
  set_dr6(QUIET);
  asm volatile("movb $42, target + 3\n 1: movb $1, target + 4; movl target, %%eax; leaq 1b(%%rip), %0" : "=r"(s)::"rax", "memory");
  expect(1, (u64[]){s}, (u64[]){QUIET | 2}, "a write of a part, one beside, and a read");
  set_dr7(0x400 | 2 << 2 | 0xfull << 20); /* reads and writes */
  n = 0;
  set_dr6(QUIET);
  asm volatile("movl target, %%eax\n 1: leaq 1b(%%rip), %0" : "=r"(s)::"rax", "memory");
  expect(1, (u64[]){s}, (u64[]){QUIET | 2}, "a read");
  n = 0;
  set_dr6(QUIET);
  asm volatile("lock incl target\n 1: leaq 1b(%%rip), %0" : "=r"(s)::"cc", "memory");
  expect(1, (u64[]){s}, (u64[]){QUIET | 2}, "a locked increment");
  n = 0;
  set_dr6(QUIET);
  u64 dst = (u64)&target[0] - 8, count = 4;
  asm volatile("2: rep stosq\n 1: leaq 2b(%%rip), %0" : "=r"(s), "+D"(dst), "+c"(count) : "a"(0ull) : "memory");
  check(n >= 1, "a write by a string");
  equal(status[0], QUIET | 2, "a write by a string");
  set_dr7(0x400);
  n = 0;
  target[0] = 5;
  equal(n, 0, "no breakpoint any more");
}

static void access(void) {
  u64 s;
  n = 0;
  set_dr6(QUIET);
  set_dr7(0x400 | 1 << 13);
  asm volatile("1: movq %%dr0, %%rax\n leaq 1b(%%rip), %0" : "=r"(s)::"rax", "memory");
  expect(1, (u64[]){s}, (u64[]){QUIET | 1 << 13}, "general detect");
  equal(dr7(), 0x400, "DR7.GD is over with its exception");
  set_cr4(cr4() | 8);
  equal(TRY(".byte 0x0f, 0x21, 0xe0", ::: "rax", "memory"), 6, "dr4 with CR4.DE");
  set_cr4(cr4() & ~8ull);
  set_dr6(0);
  u64 four;
  asm volatile(".byte 0x0f, 0x21, 0xe0" : "=a"(four));
  equal(four, QUIET, "dr4 is dr6");
  equal(TRY("movq %0, %%dr7", ::"r"(1ull << 32) : "memory"), 13, "upper bits of dr7");
  equal(TRY("movq %0, %%dr6", ::"r"(1ull << 32) : "memory"), 13, "upper bits of dr6");
  set_dr7(0xffffffff & ~(1 << 13));
  equal(dr7(), 0xffff07ff, "bits of dr7");
  set_dr7(0x400);
}

static void nothing(struct frame *f) { (void)f; }

void test_debug(void) {
  handlers[1] = on_debug;
  handlers[0x43] = nothing;
  gate(0x43, (u64)stubs + 32 * 0x43, 0, 0);
  steps();
  code_points();
  data_points();
  access();
  handlers[1] = 0;
  set_dr6(QUIET);
}
