/* Control registers, model-specific registers, CPUID, images of the FPU, moves between levels. */
#include "guest.h"

static void control(void) {
  u64 zero = cr0(), four = cr4();
  equal(try_cr0(zero & ~1ull), 13, "paging without protection");
  equal(try_cr0((zero | 1 << 29) & ~(1ull << 30)), 13, "NW without CD");
  equal(try_cr0(zero | 1ull << 32), 13, "upper bits of cr0");
  equal(try_cr4(four & ~0x20ull), 13, "PAE cleared in long mode");
  equal(try_cr4(four | 1ull << 63), 13, "upper bits of cr4");
  equal(try_cr4(four | 1 << 13), 13, "VMXE without VMX");
  if (!has(1, 2, 26)) equal(try_cr4(four | 1 << 18), 13, "OSXSAVE without XSAVE");
  equal(try_cr3(cr3() | 1ull << 45), 13, "cr3 beyond the physical address");
  equal(try_cr8(16), 13, "cr8 above 15");
  set_cr8(5);
  equal(cr8(), 5, "cr8");
  equal(APIC(0x80), 0x50, "cr8 is the APIC's");
  set_cr8(0);
  equal(try_wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x100ull), 13, "LME cleared with paging");
  equal(try_wrmsr(0xc0000080, rdmsr(0xc0000080) | 2), 13, "a reserved bit of EFER");
  u16 word;
  asm volatile("smsw %0" : "=r"(word));
  equal(word, zero & 0xffff, "smsw");
  asm volatile("lmsw %w0" ::"r"((u32)(zero & ~1ull) ^ 8));
  equal(cr0(), zero ^ 8, "lmsw doesn't clear PE");
  set_cr0(zero);
}

static void specific(void) {
  static const struct {
    u32 number;
    u64 value;
    bool address;
  } plain[] = {
      {0x174, 0x1234, false},           {0x175, 0x123456789abc, true},    {0x176, 0x123456789abc, true},
      {0xc0000100, 0x123456789abc, true}, {0xc0000102, 0x123456789abc, true}, {0xc0000082, 0x123456789abc, true},
      {0xc0000083, 0x123456789abc, true}, {0xc0000084, 0xffffffff, false},    {0xc0000081, 0x0033002800000000, false},
      {0x277, 0x07070707, false},
  };
  for (unsigned i = 0; i < sizeof plain / sizeof *plain; i++) {
    u64 old = rdmsr(plain[i].number);
    wrmsr(plain[i].number, plain[i].value);
    equal(rdmsr(plain[i].number), plain[i].value, "a model-specific register");
    wrmsr(plain[i].number, old);
    if (plain[i].address) equal(try_wrmsr(plain[i].number, 0xaaaaaaaaaaaaaaaa), 13, "a non-canonical address");
  }
  volatile u32 *time = (volatile u32 *)fresh_page();
  wrmsr(0x12, (u64)time | 1);
  equal(rdmsr(0x4b564d01), (u64)time | 1, "the clock's first number");
  check(*time != 0 && *time % 2 == 0, "the clock's version");
  wrmsr(0x12, 0);
  equal(try_rdmsr(0x12345678), 13, "no such register");
  equal(try_wrmsr(0x12345678, 0), 13, "no such register");
  equal(try_rdmsr(0x400), 13, "no bank of machine checks");
  equal(try_wrmsr(0x277, 2), 13, "no such memory type");
  equal(try_wrmsr(0xc0000084, 1ull << 32), 13, "upper bits of SFMASK");
  equal(try_rdmsr(0x49), 13, "a register to write");
  u64 before = rdtsc();
  wrmsr(0x3b, rdmsr(0x3b) + 1000000000000);
  u64 after = rdtsc();
  check(after - before >= 1000000000000, "TSC_ADJUST");
  wrmsr(0x3b, rdmsr(0x3b) - 1000000000000);
  check(rdtsc() - before < 1000000000000, "TSC_ADJUST taken back");
  wrmsr(0xc0000103, 0x1234567);
  u32 a, c, d;
  asm volatile("rdtscp" : "=a"(a), "=c"(c), "=d"(d));
  equal(c, 0x1234567, "rdtscp");
  check((u64)a + ((u64)d << 32) > before, "rdtscp's time");
}

static void identity(void) {
  u32 r[4];
  cpuid(0, 0, r);
  check(r[0] >= 7, "leaf 7");
  cpuid(1, 0, r);
  check(r[3] & 1 << 9, "an APIC");
  u64 base = rdmsr(0x1b);
  wrmsr(0x1b, base & ~0x800ull);
  cpuid(1, 0, r);
  equal(r[3] >> 9 & 1, 0, "no APIC in CPUID while it is off");
  wrmsr(0x1b, base);
  cpuid(1, 0, r);
  equal(r[3] >> 9 & 1, 1, "an APIC again");
  APIC(0xf0) = 0x1ff;
  u64 rbx = -1ull, rax = 0xffffffff00000000;
  asm volatile("cpuid" : "+a"(rax), "=b"(rbx)::"rcx", "rdx");
  check(rax >> 32 == 0 && rbx >> 32 == 0, "cpuid clears upper halves");
}

static void image(void) {
  static u8 area[1024] __attribute__((aligned(64))), again[512] __attribute__((aligned(64)));
  u64 low = 0x1122334455667788;
  asm volatile("fninit; fld1; fldpi; movq %0, %%xmm3; movq %0, %%xmm15" ::"r"(low));
  asm volatile("fxsave64 (%0)" ::"r"(area) : "memory");
  equal(*(u16 *)area, 0x37f, "control word");
  equal(*(u16 *)(area + 2) >> 11 & 7, 6, "top of the stack");
  equal(area[4], 0xc0, "tags");
  equal(*(u32 *)(area + 24), 0x1f80, "MXCSR");
  equal(*(u16 *)(area + 40), 0x4000, "pi's exponent");
  equal(*(u64 *)(area + 32), 0xc90fdaa22168c235, "pi");
  equal(*(u64 *)(area + 48), 1ull << 63, "one");
  equal(*(u64 *)(area + 160 + 48), low, "xmm3");
  equal(*(u64 *)(area + 160 + 240), low, "xmm15");
  asm volatile("fninit; xorps %%xmm3, %%xmm3; xorps %%xmm15, %%xmm15; fxrstor64 (%0); fxsave64 (%1)" ::"r"(area), "r"(again) : "memory");
  bool same = true;
  for (int i = 0; i < 416; i++) same &= area[i] == again[i] || (i >= 6 && i < 24);
  check(same, "an image comes back");
  equal(TRY("fxsave64 (%0)", ::"r"(area + 8) : "memory"), 13, "an image at an odd address");
  *(u32 *)(area + 24) = 0x10000;
  equal(TRY("fxrstor64 (%0)", ::"r"(area) : "memory"), 13, "an image with a reserved bit of MXCSR");
  if (!has(1, 2, 26)) {
    equal(TRY("xgetbv", ::"c"(0) : "eax", "edx", "memory"), 6, "xgetbv without XSAVE");
    equal(TRY("xsave (%0)", ::"r"(area), "a"(7), "d"(0) : "memory"), 6, "xsave without XSAVE");
  }
  u64 a[2] __attribute__((aligned(16))) = {1, 2};
  bool equal16;
  asm volatile("lock cmpxchg16b %1; setz %0" : "=q"(equal16), "+m"(a) : "a"(1ull), "d"(2ull), "b"(3ull), "c"(4ull) : "cc");
  check(equal16 && a[0] == 3 && a[1] == 4, "cmpxchg16b");
  u64 lo = 9, hi = 9;
  asm volatile("cmpxchg16b %1; setz %0" : "=q"(equal16), "+m"(a), "+a"(lo), "+d"(hi) : "b"(7ull), "c"(8ull) : "cc");
  check(!equal16 && lo == 3 && hi == 4 && a[0] == 3, "cmpxchg16b that fails");
  equal(TRY("cmpxchg16b (%0)", ::"r"((u64)area + 8), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc"), 13, "cmpxchg16b at an odd address");
}

/* Levels: syscall, sysret, sysenter, and what UMIP takes from users. */
static u8 *text;

static u64 user(const u8 *code, unsigned len, u64 rflags) {
  for (unsigned i = 0; i < len; i++) text[i] = code[i];
  seen.vector = -1;
  return enter_user(0x220000000000, 0x220000002000, rflags, 0x220000001000);
}

static u64 fault_at;

static void back_to_64_bits(struct frame *f) {
  extern u8 compatible_done[];
  fault_at = f->rip;
  f->cs = 8;
  f->rip = (u64)compatible_done;
}

/* Systems for this maker's processors leave CSTAR empty. */
static void compatible_call(void) {
  extern u8 compatible_syscall[], compatible_taken[];
  wrmsr(0xc0000083, (u64)compatible_taken);
  void (*kept)(struct frame *) = handlers[6];
  handlers[6] = back_to_64_bits;
  fault_at = 0;
  asm volatile(
      "pushq $0x18; pushq $compatible_syscall; lretq\n"
      ".code32\n"
      "compatible_syscall: syscall\n"
      ".code64\n"
      "compatible_taken: nop\n"
      "compatible_done:" ::: "rcx", "r11", "memory");
  handlers[6] = kept;
  equal(fault_at, compatible_syscall, "syscall out of 32-bit code");
}

static void levels(void) {
  extern u8 syscall_entry[];
  extern u64 syscall_saw[4];
  text = fresh_page();
  map(0x220000000000, (u64)text, P | W | U);
  u64 *data = (u64 *)fresh_page();
  *data = 0x6a7e;
  map(0x220000001000, (u64)data, P | W | U);
  wrmsr(0xc0000081, 0x33ull << 48 | 0x08ull << 32);
  wrmsr(0xc0000082, (u64)syscall_entry);
  wrmsr(0xc0000084, 0x47700);
  static const u8 call[] = {0xb8, 7, 0, 0, 0, 0x0f, 0x05, 0xcd, 0x80};
  u64 result = user(call, sizeof call, 0x246);
  equal(seen.vector, -1, "syscall and sysret");
  equal(result, 8, "what the kernel's part did");
  equal(syscall_saw[0], 0x220000000007, "rcx of syscall");
  equal(syscall_saw[1] & 0x246, 0x246, "r11 of syscall");
  equal(syscall_saw[2] & 0x47700, 0, "SFMASK");
  equal(syscall_saw[3], 8 | 0x10 << 16, "selectors of syscall");
  wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ull);
  user(call, sizeof call, 0x202);
  equal(seen.vector, 6, "syscall without SCE");
  wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
  compatible_call();
  /* A return to a user empties what is the kernel's, but 64-bit code has no use for more than the base. */
  static const u8 selectors[] = {0x8c, 0xe0, 0xc1, 0xe0, 0x10, 0x66, 0x8c, 0xe8, 0xcd, 0x80};
  static const u8 by_base[] = {0x65, 0x48, 0x8b, 0x87, 0, 0xf0, 0xff, 0xff, 0xcd, 0x80};
  u64 kept = rdmsr(0xc0000101);
  for (int i = 0; i < 2; i++) {
    asm volatile("movw %w0, %%fs; movw %w1, %%gs" ::"r"(3), "r"(0x10));
    wrmsr(0xc0000101, 0x1000);
    u64 got = i ? user(by_base, sizeof by_base, 0x202) : user(selectors, sizeof selectors, 0x202);
    equal(got, i ? 0x6a7e : 0, "fs and gs behind a return to a user");
  }
  wrmsr(0xc0000101, kept);
  static const u8 wrong[] = {0x0f, 0x34, 0xcd, 0x80};
  wrmsr(0x174, 0);
  user(wrong, sizeof wrong, 0x202);
  equal(seen.vector, 13, "sysenter without a selector");
  static const u8 told[][8] = {
      {0x0f, 0x01, 0x07, 0xcd, 0x80}, {0x0f, 0x01, 0x0f, 0xcd, 0x80}, {0x0f, 0x00, 0xc0, 0xcd, 0x80},
      {0x0f, 0x00, 0xc8, 0xcd, 0x80}, {0x0f, 0x01, 0xe0, 0xcd, 0x80},
  };
  for (int on = 0; on < 2; on++) {
    if (on && !has(7, 2, 2)) break;
    if (on) set_cr4(cr4() | 1 << 11);
    for (int i = 0; i < 5; i++) {
      user(told[i], 5, 0x202);
      equal(seen.vector, on ? 13 : -1, "what UMIP is about");
    }
    u8 table[16];
    asm volatile("sgdt %0" : "=m"(table));
    set_cr4(cr4() & ~(1ull << 11));
  }
  /* The time-stamp counter for the kernel alone. */
  static const u8 time[] = {0x0f, 0x31, 0xcd, 0x80};
  set_cr4(cr4() | 4);
  user(time, sizeof time, 0x202);
  equal(seen.vector, 13, "rdtsc by a user with TSD");
  set_cr4(cr4() & ~4ull);
  user(time, sizeof time, 0x202);
  equal(seen.vector, -1, "rdtsc by a user");
  if (has(7, 1, 0)) {
    equal(TRY("rdfsbase %%rax", ::: "rax", "memory"), 6, "rdfsbase without FSGSBASE");
    set_cr4(cr4() | 1 << 16);
    u64 v;
    asm volatile("wrgsbase %1; rdgsbase %0; wrgsbase %2" : "=r"(v) : "r"(0x1234567890ull), "r"(0ull));
    equal(v, 0x1234567890, "the base of gs");
    equal(TRY("wrfsbase %0", ::"r"(0x800000000000ull) : "memory"), 13, "a non-canonical base");
    set_cr4(cr4() & ~(1ull << 16));
  }
  u64 base = rdmsr(0xc0000101);
  wrmsr(0xc0000102, 0x5555);
  asm volatile("swapgs");
  equal(rdmsr(0xc0000101), 0x5555, "swapgs");
  equal(rdmsr(0xc0000102), base, "swapgs");
  wrmsr(0xc0000101, base);
}

asm(".data; .globl syscall_saw; syscall_saw: .quad 0, 0, 0, 0; .text\n"
    "syscall_entry: movq %rcx, syscall_saw; movq %r11, syscall_saw + 8\n"
    "movq %rsp, %r8; movq $stacks + 16384, %rsp; pushfq; popq syscall_saw + 16; movq %r8, %rsp\n"
    "movl %cs, %r8d; movw %r8w, syscall_saw + 24; movl %ss, %r8d; movw %r8w, syscall_saw + 26\n"
    "incl %eax; sysretq");

void test_registers(void) {
  control();
  specific();
  identity();
  image();
  levels();
}
