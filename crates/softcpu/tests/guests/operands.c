/* What an instruction may name: which ones can be locked, addresses that are none, alignment, 32-bit addresses at the end of 4 GiB. */
#include "guest.h"

#define NONE 0x800000000000ull
#define AT 0x2a0000000000ull

static u8 *page;

/* Runs some bytes with rdi as given, rsi in a page, rcx one and what else there is zero; gives the vector or -1. */
static int run(const u8 *code, unsigned length, u64 rdi) {
  volatile u8 *to = (u8 *)AT;
  u64 rsi = (u64)page;
  for (unsigned i = 0; i < length; i++) to[i] = code[i];
  to[length] = 0xc3;
  seen.vector = -1;
  asm volatile("pushq %%rbp; movq %%rsp, %%r12; movq $9f, resume\n"
               "xorl %%eax, %%eax; xorl %%ecx, %%ecx; incl %%ecx; xorl %%edx, %%edx; xorl %%ebx, %%ebx; call *%2\n"
               "9: movq %%r12, %%rsp; popq %%rbp; movq $0, resume; cld"
               : "+D"(rdi), "+S"(rsi)
               : "r"(AT)
               : "rax", "rcx", "rdx", "rbx", "r12", "cc", "memory");
  return seen.vector;
}

/* Every opcode of one byte and of two with every digit: what may be locked, and only where it writes to memory. */
static bool lockable(u8 op, int digit) {
  if (op < 0x40) return (op & 7) < 2 && op < 0x38;      /* add or adc sbb and sub xor */
  if (op >= 0x80 && op <= 0x83) return digit != 7;      /* the same by a number */
  if (op == 0x86 || op == 0x87) return true;            /* xchg */
  if (op == 0xf6 || op == 0xf7) return digit == 2 || digit == 3;
  if (op == 0xfe || op == 0xff) return digit < 2;
  return false;
}

static bool lockable_two(u8 op, int digit) {
  switch (op) {
    case 0xb0: case 0xb1: case 0xc0: case 0xc1: case 0xab: case 0xb3: case 0xbb: return true;
    case 0xba: return digit >= 5;
    case 0xc7: return digit == 1;
    default: return false;
  }
}

static void locks(void) {
  static const u8 one[] = {0x00, 0x01, 0x02, 0x03, 0x08, 0x10, 0x19, 0x21, 0x29, 0x31, 0x38, 0x39, 0x3b, 0x63, 0x69, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86,
                           0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0xc0, 0xc1, 0xc6, 0xc7, 0xd1, 0xd3, 0xf6, 0xf7, 0xfe, 0xff};
  static const u8 two[] = {0x10, 0x18, 0x1f, 0x28, 0x40, 0x90, 0xa3, 0xa5, 0xab, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xc0, 0xc1, 0xc3, 0xc7};
  u64 *words = (u64 *)fresh_page();
  for (int wide = 0; wide < 2; wide++) {
    const u8 *list = wide ? two : one;
    for (unsigned i = 0; i < (wide ? sizeof two : sizeof one); i++) {
      for (int digit = 0; digit < 8; digit++) {
        for (int memory = 0; memory < 2; memory++) {
          u8 code[16] = {0xf0};
          int length = 1;
          if (wide) code[length++] = 0x0f;
          code[length++] = list[i];
          /* (%rdi), or a register whose change does no harm. */
          code[length++] = (memory ? 7 : 0xc0) | digit << 3;
          /* Where a number follows it is zero. */
          u8 op = list[i];
          int numbers = wide ? (op == 0xba || op == 0xa4) : op == 0x81 || op == 0xc7 || op == 0x69 || (op == 0xf7 && digit < 2) ? 4 : op == 0x80 || op == 0x83 || op == 0xc0 || op == 0xc1 || op == 0xc6 || (op == 0xf6 && digit < 2);
          for (int n = 0; n < numbers; n++) code[length++] = 0;
          bool good = memory && (wide ? lockable_two(op, digit) : lockable(op, digit));
          words[0] = words[1] = 0;
          /* Exchanges would bring what they find into registers that hold addresses. */
          if (good && (digit == 4 || digit == 5 || digit == 7) && (wide || op < 0x80 || op == 0x86 || op == 0x87)) continue;
          int vector = run(code, length, (u64)words);
          equal(vector, good ? -1 : 6, "lock");
          if (vector != (good ? -1 : 6)) {
            for (int n = 0; n < length; n++) say_hex(code[n]);
            say("\n");
          }
        }
      }
    }
  }
}

/* Addresses that are none: each way to one has its own exception, and says nothing in cr2. */
static void nowhere(void) {
  static const struct {
    u8 code[12];
    u8 length;
    signed char vector;
    const char *what;
  } cases[] = {
      {{0x8a, 0x07}, 2, 13, "mov"},
      {{0x88, 0x07}, 2, 13, "mov to memory"},
      {{0xff, 0x37}, 2, 13, "push from memory"},
      {{0x8f, 0x07}, 2, 13, "pop to memory"},
      {{0xff, 0x17}, 2, 13, "call by memory"},
      {{0xff, 0x27}, 2, 13, "jmp by memory"},
      {{0x48, 0x0f, 0xc7, 0x0f}, 4, 13, "cmpxchg16b"},
      {{0x0f, 0xae, 0x07}, 3, 13, "fxsave"},
      {{0x0f, 0xae, 0x17}, 3, 13, "ldmxcsr"},
      {{0x0f, 0xae, 0x3f}, 3, 13, "clflush"},
      {{0x0f, 0x01, 0x3f}, 3, -1, "invlpg"},
      {{0x0f, 0x18, 0x0f}, 3, -1, "prefetch"},
      {{0x0f, 0x0d, 0x0f}, 3, -1, "prefetchw"},
      {{0x0f, 0x1f, 0x07}, 3, -1, "nop of memory"},
      {{0x48, 0x8d, 0x07}, 3, -1, "lea"},
      {{0x0f, 0x01, 0x07}, 3, 13, "sgdt"},
      {{0x0f, 0x01, 0x17}, 3, 13, "lgdt"},
      {{0x0f, 0x00, 0x07}, 3, 13, "sldt"},
      {{0x0f, 0x00, 0x17}, 3, 13, "lldt"},
      {{0x0f, 0x01, 0x27}, 3, 13, "smsw"},
      {{0xa4}, 1, 13, "movs"},
      {{0xaa}, 1, 13, "stos"},
      {{0xae}, 1, 13, "scas"},
      {{0xa6}, 1, 13, "cmps"},
      {{0xf3, 0xa4}, 2, 13, "rep movs"},
      {{0xf3, 0x48, 0xab}, 3, 13, "rep stos"},
      {{0x48, 0x89, 0xfe, 0xac}, 4, 13, "lods"},
      {{0x48, 0x89, 0xfb, 0xd7}, 4, 13, "xlat"},
      {{0x0f, 0x10, 0x07}, 3, 13, "movups"},
      {{0x0f, 0x28, 0x07}, 3, 13, "movaps"},
      {{0xdd, 0x07}, 2, 13, "fld"},
      {{0xdd, 0x17}, 2, 13, "fst"},
      {{0xd9, 0x37}, 2, 13, "fnstenv"},
      {{0x0f, 0x6f, 0x07}, 3, 13, "movq of mmx"},
      {{0x0f, 0xc3, 0x07}, 3, 13, "movnti"},
      {{0x0f, 0xa3, 0x07}, 3, 13, "bt"},
      {{0x0f, 0xba, 0x2f, 0x00}, 4, 13, "bts"},
      {{0xf0, 0x48, 0x0f, 0xc1, 0x07}, 5, 13, "lock xadd"},
      {{0x0f, 0xb2, 0x1f}, 3, 13, "lss"},
      {{0xff, 0x2f}, 2, 13, "far jmp by memory"},
      {{0xff, 0x1f}, 2, 13, "far call by memory"},
      {{0x8e, 0x07}, 2, 13, "mov to es from memory"},
      {{0x8c, 0x07}, 2, 13, "mov from es to memory"},
      {{0x66, 0x0f, 0x38, 0x82, 0x07}, 5, 13, "invpcid"},
      {{0x48, 0x89, 0xfc, 0x50}, 4, 12, "push"},
      {{0x48, 0x89, 0xfc, 0x58}, 4, 12, "pop"},
      {{0x48, 0x89, 0xfc, 0x9c}, 4, 12, "pushf"},
      {{0x48, 0x89, 0xfc, 0x9d}, 4, 12, "popf"},
      {{0x48, 0x89, 0xfc, 0xc3}, 4, 12, "ret"},
      {{0x48, 0x89, 0xfc, 0xe8, 0, 0, 0, 0}, 8, 12, "call"},
      {{0x48, 0x89, 0xfc, 0xff, 0xd0}, 5, 12, "call by a register"},
      {{0x48, 0x89, 0xfc, 0x48, 0xcf}, 5, 12, "iret"},
      {{0x48, 0x89, 0xfc, 0x48, 0xcb}, 5, 12, "far ret"},
      {{0x48, 0x89, 0xfc, 0x48, 0x8b, 0x04, 0x24}, 7, 12, "mov by rsp"},
      {{0x48, 0x89, 0xfc, 0x0f, 0xa0}, 5, 12, "push fs"},
      {{0x48, 0x89, 0xfc, 0x0f, 0xa1}, 5, 12, "pop fs"},
      {{0x48, 0x89, 0xfc, 0xc8, 0, 0, 0}, 7, 12, "enter"},
      {{0x48, 0x87, 0xfd, 0xc9, 0x90}, 5, 12, "leave"},
      {{0x48, 0x87, 0xfd, 0x8a, 0x45, 0x00, 0x90}, 7, 12, "mov by rbp"},
      {{0x3e, 0x8a, 0x07}, 3, 13, "mov by ds"},
      {{0x64, 0x8a, 0x07}, 3, 13, "mov by fs"},
  };
  /* Outside on both sides, and over the end. */
  static const u64 places[] = {NONE + 0x10000, 0xffff7fffffff0000, 0x4000000000000000, 0xaaaaaaaaaaaaaaa0};
  gate(12, (u64)stubs + 32 * 12, 0, 2);
  gate(13, (u64)stubs + 32 * 13, 0, 2);
  for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
    for (unsigned n = 0; n < sizeof places / sizeof *places; n++) {
      asm volatile("movq $0x1234, %%rax; movq %%rax, %%cr2" ::: "rax");
      int vector = run(cases[i].code, cases[i].length, places[n]);
      equal(vector, cases[i].vector, cases[i].what);
      if (vector >= 0) equal(seen.error, 0, cases[i].what);
      equal(cr2(), 0x1234, "cr2 after an address that is none");
    }
  }
  gate(12, (u64)stubs + 32 * 12, 0, 0);
  gate(13, (u64)stubs + 32 * 13, 0, 0);
  /* The last eight bytes that are, and one further. */
  u8 *last = fresh_page();
  map(NONE - 4096, (u64)last, P | W);
  equal(TRY("movq (%0), %%rax", ::"r"(NONE - 8) : "rax", "memory"), -1, "the last eight bytes");
  equal(TRY("movq (%0), %%rax", ::"r"(NONE - 7) : "rax", "memory"), 13, "over the end of all addresses");
  equal(TRY("movups %%xmm0, (%0)", ::"r"(NONE - 15) : "memory"), 13, "sixteen bytes over the end");
  map(0xffff800000000000, (u64)last, P | W);
  equal(TRY("movq (%0), %%rax", ::"r"(0xffff800000000000) : "rax", "memory"), -1, "the first eight bytes above");
  equal(TRY("movq (%0), %%rax", ::"r"(0xffff7fffffffffff) : "rax", "memory"), 13, "a byte in front of them");
  map(0xfffffffffffff000, (u64)last, P | W);
  *(volatile u32 *)(last + 4092) = 0x11223344;
  u64 value;
  u32 first = *(volatile u32 *)0;
  asm volatile("movq (%1), %0" : "=r"(value) : "r"(0xfffffffffffffffc) : "memory");
  equal(value, (u64)first << 32 | 0x11223344, "from the last address on to the first");
  map(NONE - 4096, 0, 0);
  map(0xffff800000000000, 0, 0);
  map(0xfffffffffffff000, 0, 0);
}

/* Registers that hold addresses. */
static void bases(void) {
  struct {
    u16 limit;
    u64 base;
  } __attribute__((packed)) pointer = {15, NONE};
  equal(TRY("lgdt %0", ::"m"(pointer) : "memory"), 13, "a table of descriptors nowhere");
  equal(TRY("lidt %0", ::"m"(pointer) : "memory"), 13, "a table of gates nowhere");
  u64 star = rdmsr(0xc0000081);
  wrmsr(0xc0000081, 0x33ull << 48 | 0x08ull << 32);
  equal(TRY_STACK("movq $0x202, %%r11; sysretq", ::"c"(NONE) : "r11", "r12", "memory"), 13, "sysret to nowhere");
  equal(seen.cs & 3, 0, "it is the kernel's fault");
  wrmsr(0xc0000081, star);
}

static void alignment(void) {
  static u8 area[640] __attribute__((aligned(64)));
  for (int off = 0; off < 64; off++) {
    u8 *p = area + off;
    int sixteen = off % 16 ? 13 : -1;
    equal(TRY("cmpxchg16b (%0)", ::"r"(p), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc"), sixteen, "cmpxchg16b");
    equal(TRY("lock cmpxchg16b (%0)", ::"r"(p), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc"), sixteen, "lock cmpxchg16b");
    equal(TRY("movaps (%0), %%xmm0", ::"r"(p) : "memory"), sixteen, "movaps");
    equal(TRY("movntps %%xmm0, (%0)", ::"r"(p) : "memory"), sixteen, "movntps");
    equal(TRY("addps (%0), %%xmm0", ::"r"(p) : "memory"), sixteen, "addps");
    equal(TRY("movups (%0), %%xmm0", ::"r"(p) : "memory"), -1, "movups");
    equal(TRY("lddqu (%0), %%xmm0", ::"r"(p) : "memory"), -1, "lddqu");
    equal(TRY("addsd (%0), %%xmm0", ::"r"(p) : "memory"), -1, "addsd");
    if (has(1, 2, 20)) equal(TRY("pcmpistri $0, (%0), %%xmm0", ::"r"(p) : "rcx", "cc", "memory"), -1, "pcmpistri");
    equal(TRY("fxsave (%0)", ::"r"(p) : "memory"), sixteen, "fxsave");
    equal(TRY("cmpxchg8b (%0)", ::"r"(p), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc"), -1, "cmpxchg8b");
    equal(TRY("movntdqa (%0), %%xmm0", ::"r"(p) : "memory"), sixteen, "movntdqa");
  }
  equal(TRY("cmpxchg16b (%0)", ::"r"(AT + 0x5008), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc"), 13, "alignment comes before a page that is not there");
}

/* Strings by 32-bit addresses, around 4 GiB and with a fault on the way: the upper halves go with the first step only. */
static void narrow_strings(void) {
  u8 *two = fresh_page();
  u64 *t3 = (u64 *)(pml4[0] & 0xfffffffff000), *t2 = (u64 *)(t3[3] & 0xfffffffff000), old = t2[511];
  u64 *t1 = (u64 *)fresh_page();
  /* The last pages below 4 GiB: one with memory, in front of it none. */
  t1[511] = (u64)two | P | W;
  t2[511] = (u64)t1 | P | W;
  set_cr3(cr3());
  u8 first = *(volatile u8 *)0, second = *(volatile u8 *)1;
  u64 to = 0x12345678fffffffeull, count;
  u64 from = (u64)page | 0x7700000000000000;
  page[0] = 0x31;
  page[1] = 0x32;
  page[2] = first;
  page[3] = second;
  count = 4;
  asm volatile("addr32 rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
  equal(to, 2, "edi goes around");
  equal(from, ((u64)page & 0xffffffff) + 4, "esi has no upper half");
  equal(count, 0, "ecx");
  check(two[4094] == 0x31 && two[4095] == 0x32, "what was copied below 4 GiB");
  /* Backwards into the page that is not there. */
  to = 0xfffff002;
  count = 0x900000006;
  seen.vector = -1;
  asm volatile("movq $9f, resume; std; addr32 rep stosb; 9: cld; movq $0, resume" : "+D"(to), "+c"(count) : "a"(7) : "memory");
  equal(seen.vector, 14, "a fill backwards into no page");
  equal(seen.cr2, 0xffffefff, "its address");
  equal(to, 0xffffefff, "edi where it stopped");
  equal(count, 3, "ecx where it stopped");
  /* One that does nothing changes nothing, not even upper halves. */
  to = 0x1200000000fffff0;
  count = 0x700000000;
  asm volatile("addr32 rep stosb" : "+D"(to), "+c"(count) : "a"(7) : "memory");
  equal(to, 0x1200000000fffff0, "rdi of no iteration");
  t2[511] = old;
  set_cr3(cr3());
}

void test_operands(void) {
  page = fresh_page();
  u8 *code = fresh_page();
  map(AT, (u64)code, P | W);
  locks();
  nowhere();
  bases();
  alignment();
  narrow_strings();
}
