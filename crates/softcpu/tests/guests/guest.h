/* What the small guests share: output, exceptions, pages, users, interrupts, other processors. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

struct frame {
  u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
  u64 vector, error, rip, cs, rflags, rsp, ss;
};

/* What the last exception said; vector is -1 if there was none. */
struct seen {
  int vector;
  u32 error;
  u64 rip, cr2, rflags, rsp, cs;
  int count;
};

extern volatile struct seen seen;
extern volatile u64 resume;
extern void (*handlers[256])(struct frame *);
extern u64 gdt[];
extern u64 pml4[], pdpt[], pds[];
extern volatile u32 processors;
extern u8 tss[4][128], stubs[];

void say(const char *text);
void say_hex(u64 value);
void check_at(bool good, const char *what, u64 got, u64 want);
void finish(void) __attribute__((noreturn));
u64 enter_user(u64 rip, u64 rsp, u64 flags, u64 rdi);
void gate(int vector, u64 handler, int dpl, int ist);
void map(u64 at, u64 physical, u64 flags);
u64 *entry_of(u64 at);
u8 *fresh_page(void);
/* Runs on another processor; `wait` waits for its end. */
void start_processors(void);
void run_on(int processor, void (*f)(void *), void *with);
void wait_for(int processor);
int self(void);

#define check(good, what) check_at((good), (what), 0, 0)
#define equal(got, want, what)                  \
  do {                                          \
    u64 got_ = (u64)(got), want_ = (u64)(want); \
    check_at(got_ == want_, (what), got_, want_); \
  } while (0)

#define P 1
#define W 2
#define U 4
#define A 0x20
#define D 0x40
#define LARGE 0x80
#define G 0x100
#define NX (1ull << 63)

/* Runs instructions that may fault; gives the vector or -1. */
#define TRY(code, ...)                                                                        \
  ({                                                                                          \
    seen.vector = -1;                                                                         \
    seen.count = 0;                                                                           \
    asm volatile("movq $9f, resume\n" code "\n9: movq $0, resume" __VA_ARGS__); \
    seen.vector;                                                                              \
  })

/* As TRY, for code that moves the stack pointer: it is kept in r12. */
#define TRY_STACK(code, ...)                                                                                       \
  ({                                                                                                               \
    seen.vector = -1;                                                                                              \
    seen.count = 0;                                                                                                \
    asm volatile("movq %%rsp, %%r12; movq $9f, resume\n" code "\n9: movq %%r12, %%rsp; movq $0, resume" __VA_ARGS__); \
    seen.vector;                                                                                                   \
  })

static inline void outb(u16 port, u8 v) { asm volatile("outb %0, %1" ::"a"(v), "Nd"(port)); }
static inline void outl(u16 port, u32 v) { asm volatile("outl %0, %1" ::"a"(v), "Nd"(port)); }
static inline u8 inb(u16 port) {
  u8 v;
  asm volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
  return v;
}
static inline u64 rdmsr(u32 n) {
  u32 a, d;
  asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(n));
  return a | (u64)d << 32;
}
static inline void wrmsr(u32 n, u64 v) { asm volatile("wrmsr" ::"c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }
static inline int try_rdmsr(u32 n) { return TRY("rdmsr", ::"c"(n) : "eax", "edx", "memory"); }
static inline int try_wrmsr(u32 n, u64 v) {
  return TRY("wrmsr", ::"c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline void cpuid(u32 leaf, u32 sub, u32 r[4]) {
  asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static inline bool has(u32 leaf, int reg, int bit) {
  u32 r[4];
  cpuid(leaf, 0, r);
  return r[reg] >> bit & 1;
}
static inline u64 rdtsc(void) {
  u32 a, d;
  asm volatile("rdtsc" : "=a"(a), "=d"(d)::"memory");
  return a | (u64)d << 32;
}
#define CONTROL(n)                                                                              \
  static inline u64 cr##n(void) {                                                               \
    u64 v;                                                                                      \
    asm volatile("mov %%cr" #n ", %0" : "=r"(v)::"memory");                                     \
    return v;                                                                                   \
  }                                                                                             \
  static inline void set_cr##n(u64 v) { asm volatile("mov %0, %%cr" #n ::"r"(v) : "memory"); }  \
  static inline int try_cr##n(u64 v) { return TRY("mov %0, %%cr" #n, ::"r"(v) : "memory"); }
CONTROL(0)
CONTROL(2)
CONTROL(3)
CONTROL(4)
CONTROL(8)
#define DEBUG(n)                                                                                \
  static inline u64 dr##n(void) {                                                               \
    u64 v;                                                                                      \
    asm volatile("mov %%dr" #n ", %0" : "=r"(v)::"memory");                                     \
    return v;                                                                                   \
  }                                                                                             \
  static inline void set_dr##n(u64 v) { asm volatile("mov %0, %%dr" #n ::"r"(v) : "memory"); }
DEBUG(0)
DEBUG(1)
DEBUG(2)
DEBUG(6)
DEBUG(7)
static inline void invlpg(void *p) { asm volatile("invlpg (%0)" ::"r"(p) : "memory"); }
static inline void pause(void) { asm volatile("pause" ::: "memory"); }
static inline void sti(void) { asm volatile("sti; nop" ::: "memory"); }
static inline void cli(void) { asm volatile("cli" ::: "memory"); }
static inline u64 flags(void) {
  u64 v;
  asm volatile("pushfq; popq %0" : "=r"(v)::"memory");
  return v;
}

#define APIC(r) (*(volatile u32 *)(0xfee00000ull + (r)))
static inline void eoi(void) { APIC(0xb0) = 0; }

/* What this guest is for; guest.c says whether it passed. */
void tests(void);
void group(const char *name, void (*f)(void));
/* Everything beyond the first 512 GiB is unmapped, and its pages may be had anew. */
void forget_pages(void);

void test_exceptions(void);
void test_paging(void);
void test_registers(void);
void test_rights(void);
void test_segments(void);
void test_points(void);
void test_operands(void);
void test_apic(void);
void test_debug(void);
void test_code(void);
void test_strings(void);
void test_modes(void);
void test_narrow(void);
void test_interrupts(void);
void test_many(void);
