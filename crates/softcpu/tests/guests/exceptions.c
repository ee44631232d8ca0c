/* Every exception with its error code. */
#include "guest.h"


static void arithmetic(void) {
  equal(TRY("divl %%ecx", ::"a"(1), "d"(0), "c"(0) : "cc", "memory"), 0, "#DE by zero");
  equal(TRY("idivl %%ecx", ::"a"(0x80000000), "d"(0xffffffff), "c"(-1) : "cc", "memory"), 0, "#DE by overflow");
  equal(TRY("divb %%cl", ::"a"(0x400), "c"(2) : "cc", "memory"), 0, "#DE of a byte");
}

static void invalid(void) {
  equal(TRY("ud2", :::"memory"), 6, "ud2");
  equal(TRY(".byte 0x0f, 0xff, 0xc0", :::"memory"), 6, "ud0");
  equal(TRY(".byte 0x8d, 0xc0", :::"memory", "eax"), 6, "lea of a register");
  equal(TRY(".byte 0xf0; movl %%eax, %%ebx", :::"memory", "ebx"), 6, "lock mov");
  equal(TRY(".byte 0xf0; addl %%eax, %%ebx", :::"memory", "ebx", "cc"), 6, "lock add on a register");
  equal(TRY(".byte 0xf0; nop", :::"memory"), 6, "lock nop");
  equal(TRY(".byte 0xf0; cmpl %%eax, (%%rsp)", :::"memory", "cc"), 6, "lock cmp");
  equal(TRY(".byte 0x06", :::"memory"), 6, "push es in 64-bit code");
  equal(TRY(".byte 0x27", :::"memory", "eax"), 6, "daa in 64-bit code");
  equal(TRY(".byte 0xea, 0, 0, 0, 0, 8, 0", :::"memory"), 6, "far jump with an address in 64-bit code");
  equal(TRY("mov %%rax, %%cr1", :::"memory"), 6, "cr1");
  equal(TRY(".byte 0x0f, 0x22, 0xf8", :::"memory"), 6, "cr7");
  equal(TRY(".byte 0x0f, 0x0a", :::"memory"), 6, "0f 0a");
  equal(TRY(".byte 0x8c, 0xf0", :::"memory", "eax"), 6, "segment register 6");
  equal(TRY(".byte 0x8e, 0xc8", :::"memory", "eax"), 6, "mov to cs");
  u64 long_one = TRY(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90",
                     :::"memory");
  equal(long_one, 13, "an instruction of 16 bytes");
}

static void floating(void) {
  u64 old = cr0();
  set_cr0(old | 8);
  equal(TRY("fninit", :::"memory"), 7, "#NM of x87 with TS");
  equal(TRY("movups %%xmm0, %%xmm1", :::"memory"), 7, "#NM of SSE with TS");
  equal(TRY("fwait", :::"memory"), 7, "#NM of fwait with TS and MP");
  set_cr0((old & ~2ull) | 8);
  equal(TRY("fwait", :::"memory"), -1, "fwait without MP");
  set_cr0(old | 4);
  equal(TRY("fninit", :::"memory"), 7, "#NM of x87 with EM");
  equal(TRY("movups %%xmm0, %%xmm1", :::"memory"), 6, "#UD of SSE with EM");
  set_cr0(old);
  u64 four = cr4();
  set_cr4(four & ~0x200ull);
  equal(TRY("movups %%xmm0, %%xmm1", :::"memory"), 6, "#UD of SSE without OSFXSR");
  set_cr4(four);
  u16 control = 0;
  asm volatile("fninit; fldcw %0; fldz; fldz; fdivp" ::"m"(control));
  equal(TRY("fwait", :::"memory"), 16, "#MF");
  equal(TRY("movq %%mm0, (%%rsp)", :::"memory"), 16, "#MF of MMX");
  asm volatile("fnclex; fninit");
  u32 mxcsr = 0x1f80 & ~0x200, clear = 0x1f80;
  asm volatile("ldmxcsr %0; xorps %%xmm0, %%xmm0; movl $0x3f800000, %%eax; movd %%eax, %%xmm1" ::"m"(mxcsr) : "eax");
  equal(TRY("divss %%xmm0, %%xmm1", :::"memory"), 19, "#XM");
  set_cr4(four & ~0x400ull);
  equal(TRY("divss %%xmm0, %%xmm1", :::"memory"), 6, "#UD in place of #XM without OSXMMEXCPT");
  set_cr4(four);
  asm volatile("ldmxcsr %0" ::"m"(clear));
  mxcsr = 0x10000;
  equal(TRY("ldmxcsr %0", ::"m"(mxcsr) : "memory"), 13, "reserved bits of MXCSR");
}

/* What later processors do something by where this one has room for hints. */
static void hints(void) {
#define HINT(code, what)                                                        \
  do {                                                                          \
    u64 v = 0x6a7e;                                                             \
    equal(TRY(code, : "+a"(v) : "c"(&v) : "memory"), -1, what);                 \
    equal(v, 0x6a7e, what);                                                     \
  } while (0)
  HINT(".byte 0xf3, 0x0f, 0x1e, 0xc8", "rdsspd");
  HINT(".byte 0xf3, 0x48, 0x0f, 0x1e, 0xc8", "rdsspq");
  HINT(".byte 0x0f, 0x1c, 0x01", "cldemote");
  HINT(".byte 0x0f, 0x0d, 0x11", "prefetchwt1");
  HINT(".byte 0x0f, 0x18, 0x3d, 0, 0, 0, 0", "prefetchit0");
  HINT(".byte 0x0f, 0x18, 0x31", "prefetchit1");
  HINT(".byte 0xf3, 0x0f, 0x09", "wbnoinvd");
  HINT(".byte 0x0f, 0x19, 0x00, 0x0f, 0x1f, 0x00", "hints without a name");
  equal(TRY(".byte 0x66, 0x0f, 0xae, 0x39", ::"c"(&seen) : "memory"), 6, "clflushopt");
  equal(TRY(".byte 0x66, 0x0f, 0xae, 0xf8", ::: "memory"), 6, "pcommit");
  equal(TRY(".byte 0xc7, 0xf8, 0, 0, 0, 0", ::: "memory"), 6, "xbegin");
}

static void selectors(void) {
  u16 old;
  asm volatile("movw %%ss, %0" : "=r"(old));
  equal(TRY("movw %w0, %%ds", ::"r"(0x90) : "memory"), 11, "#NP of data");
  equal(seen.error, 0x90, "#NP's selector");
  equal(TRY("movw %w0, %%ss", ::"r"(0x90) : "memory"), 12, "#SS of a stack that is not present");
  equal(seen.error, 0x90, "#SS's selector");
  equal(TRY("movw %w0, %%ds", ::"r"(0x200) : "memory"), 13, "a selector beyond the table");
  equal(seen.error, 0x200, "#GP's selector");
  equal(TRY("movw %w0, %%ss", ::"r"(0x08) : "memory"), 13, "code as a stack");
  equal(seen.error, 8, "#GP's selector");
  equal(TRY("movw %w0, %%ss", ::"r"(0xb8) : "memory"), 13, "a stack that can't be written");
  equal(TRY("movw %w0, %%ss", ::"r"(3) : "memory"), 13, "null with another level as a stack");
  equal(TRY("movw %w0, %%ss", ::"r"(0) : "memory"), -1, "null as a stack in 64-bit code");
  asm volatile("movw %w0, %%ss" ::"r"(old));
  equal(TRY("movw %w0, %%ds", ::"r"(0x48) : "memory"), 13, "a TSS as data");
  equal(TRY_STACK("pushq $0x88; pushq $0; lretq", :::"memory", "r12"), 11, "far return to code that is not present");
  equal(seen.error, 0x88, "#NP's selector");
}

static void stacks(void) {
  u64 bad = 0x800000000000;
  gate(12, (u64)stubs + 32 * 12, 0, 2);
  equal(TRY("movb (%0), %%al", ::"r"(bad) : "rax", "memory"), 13, "a load from a non-canonical address");
  equal(seen.error, 0, "#GP's code");
  equal(TRY_STACK("movq %0, %%rsp; popq %%rax", ::"r"(bad) : "rax", "r12", "memory"), 12, "a pop from a non-canonical address");
  equal(seen.error, 0, "#SS's code");
  equal(TRY_STACK("movq %%rbp, %%r13; movq %0, %%rbp; movq (%%rbp), %%rax", ::"r"(bad) : "rax", "r12", "r13", "memory"), 12,
        "a load by rbp from a non-canonical address");
  asm volatile("movq %%r13, %%rbp" ::: "memory");
  gate(12, (u64)stubs + 32 * 12, 0, 0);
  u64 here;
  equal(TRY("jmp *%0", ::"r"(bad) : "memory"), 13, "a jump to a non-canonical address");
  asm volatile("leaq (%%rip), %0" : "=r"(here));
  check(seen.rip > here - 4096 && seen.rip < here, "the fault of a jump is the jump's");
  equal(TRY_STACK("pushq %0; ret", ::"r"(bad) : "r12", "memory"), 13, "a return to a non-canonical address");
  equal(TRY_STACK("call *%0", ::"r"(bad) : "r12", "memory"), 13, "a call of a non-canonical address");
}

static void interrupts(void) {
  equal(TRY("int3", :::"memory"), 3, "int3");
  u64 behind;
  asm volatile("leaq 1f(%%rip), %0; movq $1f, resume; int3; 1: movq $0, resume" : "=r"(behind)::"memory");
  equal(seen.rip, behind, "int3 is a trap");
  equal(TRY("int $4", :::"memory"), 4, "int 4");
  equal(TRY(".byte 0xf1", :::"memory"), 1, "int1");
}

/* A gate that is not present, and one of a wrong kind. */
static void gates(void) {
  struct {
    u16 limit;
    u64 base;
  } __attribute__((packed)) now, less;
  asm volatile("sidt %0" : "=m"(now));
  u64 *entry = (u64 *)(now.base + 16 * 0x50), old = *entry;
  *entry = old & ~(1ull << 47);
  equal(TRY("int $0x50", :::"memory"), 11, "#NP of a gate");
  equal(seen.error, 0x50 * 8 + 2, "#NP's code");
  *entry = (old & ~(0xfull << 40)) | 5ull << 40;
  equal(TRY("int $0x50", :::"memory"), 13, "a task gate in long mode");
  equal(seen.error, 0x50 * 8 + 2, "#GP's code");
  *entry = (old & ~0xffff0000ull) | 0x10 << 16;
  equal(TRY("int $0x50", :::"memory"), 13, "a gate to data");
  equal(seen.error, 0x10, "#GP's selector");
  *entry = (old & ~0xffff0000ull) | 0x88 << 16;
  equal(TRY("int $0x50", :::"memory"), 11, "a gate to code that is not present");
  equal(seen.error, 0x88, "#NP's selector");
  *entry = (old & ~0xffff0000ull) | 0x18 << 16;
  equal(TRY("int $0x50", :::"memory"), 13, "a gate to 32-bit code in long mode");
  equal(seen.error, 0x18, "#GP's selector");
  *entry = old;
  less = now;
  less.limit = 16 * 0x50 - 1;
  asm volatile("lidt %0" ::"m"(less));
  equal(TRY("int $0x50", :::"memory"), 13, "a vector beyond the table");
  equal(seen.error, 0x50 * 8 + 2, "#GP's code");
  asm volatile("lidt %0" ::"m"(now));
  /* A contributory fault while a contributory fault is delivered is a double fault, with its own stack. */
  entry = (u64 *)(now.base + 16 * 13);
  old = *entry;
  *entry = old & ~(1ull << 47);
  equal(TRY("movb (%0), %%al", ::"r"(0x800000000000) : "rax", "memory"), 8, "#DF");
  equal(seen.error, 0, "#DF's code");
  check(seen.rsp != 0, "#DF's stack");
  *entry = old;
  entry = (u64 *)(now.base + 16 * 3);
  old = *entry;
  *entry = old & ~(1ull << 47);
  equal(TRY("int3", :::"memory"), 11, "#NP of int3's gate");
  equal(seen.error, 3 * 8 + 2, "#NP's code");
  *entry = old;
}

/* What the lowest level may not do. */
static void users(void) {
  static const struct {
    u8 code[16];
    int vector;
    u32 error;
    const char *what;
  } cases[] = {
      {{0xf4}, 13, 0, "hlt by a user"},
      {{0xfa}, 13, 0, "cli by a user"},
      {{0xfb}, 13, 0, "sti by a user"},
      {{0x0f, 0x20, 0xc0}, 13, 0, "mov from cr0 by a user"},
      {{0x0f, 0x22, 0xd8}, 13, 0, "mov to cr3 by a user"},
      {{0x0f, 0x21, 0xf8}, 13, 0, "mov from dr7 by a user"},
      {{0x0f, 0x32}, 13, 0, "rdmsr by a user"},
      {{0x0f, 0x30}, 13, 0, "wrmsr by a user"},
      {{0x0f, 0x06}, 13, 0, "clts by a user"},
      {{0x0f, 0x08}, 13, 0, "invd by a user"},
      {{0x0f, 0x09}, 13, 0, "wbinvd by a user"},
      {{0x0f, 0x01, 0x3f}, 13, 0, "invlpg by a user"},
      {{0x0f, 0x01, 0x17}, 13, 0, "lgdt by a user"},
      {{0x0f, 0x00, 0xd8}, 13, 0, "ltr by a user"},
      {{0x0f, 0x01, 0xf0}, 13, 0, "lmsw by a user"},
      {{0x0f, 0x01, 0xf8}, 13, 0, "swapgs by a user"},
      {{0x0f, 0x07}, 13, 0, "sysret by a user"},
      {{0xe4, 0x80}, 13, 0, "in by a user"},
      {{0xe6, 0x80}, 13, 0, "out by a user"},
      {{0x6e}, 13, 0, "outs by a user"},
      {{0xcd, 0x41}, 13, 0x41 * 8 + 2, "int by a user through a gate of the kernel"},
      {{0xcc}, 3, 0, "int3 by a user"},
      {{0xf1}, 1, 0, "int1 by a user"},
      {{0x0f, 0x0b}, 6, 0, "ud2 by a user"},
      {{0x31, 0xc9, 0xf7, 0xf1}, 0, 0, "division by zero by a user"},
      {{0x48, 0x8b, 0x04, 0x25, 0, 0, 0x10, 0}, 14, 5, "a read of the kernel's page"},
      {{0x48, 0x89, 0x04, 0x25, 0, 0, 0x10, 0}, 14, 7, "a write to the kernel's page"},
      {{0xe9, 0xfb, 0xff, 0x0f, 0xc0}, 14, 0x15, "a jump into the kernel's page"},
  };
  u8 *page = fresh_page();
  u8 *stack = fresh_page();
  map(0x200000000000, (u64)page, P | W | U);
  map(0x200000001000, (u64)stack, P | W | U | NX);
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (int n = 0; n < 16; n++) page[n] = cases[i].code[n];
    if (cases[i].vector == 14 && cases[i].error == 0x15) {
      /* jmp through a register: the kernel is far away. */
      static const u8 jump[] = {0x48, 0xc7, 0xc0, 0, 0, 0x10, 0, 0xff, 0xe0};
      for (unsigned n = 0; n < sizeof jump; n++) page[n] = jump[n];
    }
    page[16] = 0xcc;
    seen.vector = -1;
    enter_user(0x200000000000, 0x200000002000, 0x202, 0x200000001000);
    equal(seen.vector, cases[i].vector, cases[i].what);
    equal(seen.error, cases[i].error, cases[i].what);
    check(seen.vector == 14 || seen.cs == 0x43, cases[i].what);
  }
  /* Alignment checks are for users who ask. */
  static const u8 odd[] = {0x48, 0x8b, 0x47, 0x01, 0xcd, 0x80};
  for (unsigned n = 0; n < sizeof odd; n++) page[n] = odd[n];
  seen.vector = -1;
  enter_user(0x200000000000, 0x200000002000, 0x202, 0x200000001000);
  equal(seen.vector, -1, "a load at an odd address");
  enter_user(0x200000000000, 0x200000002000, 0x202 | 1 << 18, 0x200000001000);
  equal(seen.vector, 17, "#AC");
  equal(seen.error, 0, "#AC's code");
  seen.vector = -1;
  set_cr0(cr0() & ~(1ull << 18));
  enter_user(0x200000000000, 0x200000002000, 0x202 | 1 << 18, 0x200000001000);
  equal(seen.vector, -1, "a load at an odd address without CR0.AM");
  set_cr0(cr0() | 1 << 18);
  /* What a program's block may read stays so when it has run often, also if it ends in the kernel. */
  static const u8 load[] = {0x48, 0x8b, 0x07, 0xcd, 0x80};
  for (unsigned n = 0; n < sizeof load; n++) page[64 + n] = load[n];
  seen.vector = -1;
  for (int i = 0; i < 20; i++) enter_user(0x200000000040, 0x200000002000, 0x202, 0x200000001000);
  equal(seen.vector, -1, "a user's load");
  static volatile u64 secret = 0x5ec2e7;
  u64 known = secret;
  u64 got = enter_user(0x200000000040, 0x200000002000, 0x202, (u64)&secret);
  check(got != known, "a user reads the kernel's memory");
  equal(seen.vector, 14, "a user's load from the kernel");
  equal(seen.error, 5, "its error");
  seen.vector = -1;
  /* With IOPL 3 and with the TSS's bitmap. */
  static const u8 port[] = {0xe6, 0x80, 0xcd, 0x80};
  for (unsigned n = 0; n < sizeof port; n++) page[n] = port[n];
  enter_user(0x200000000000, 0x200000002000, 0x3202, 0);
  equal(seen.vector, -1, "out by a user with IOPL 3");
}

void test_exceptions(void) {
  arithmetic();
  invalid();
  floating();
  hints();
  selectors();
  stacks();
  interrupts();
  gates();
  users();
}
