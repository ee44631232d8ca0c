#include "guest.h"

volatile struct seen seen;
volatile u64 resume;
void (*handlers[256])(struct frame *);
u8 tss[4][128] __attribute__((aligned(128)));

static struct {
  u16 low, selector;
  u8 ist, kind;
  u16 middle;
  u32 high, zero;
} idt[256] __attribute__((aligned(16)));
static u8 ist_stacks[4][3][4096] __attribute__((aligned(16)));
static u8 ring0_stacks[4][8192] __attribute__((aligned(16)));
static u8 pages[224][4096] __attribute__((aligned(4096)));
static int pages_used, failures;
static u32 lock_of_output;
extern void leave_user(void);

static void acquire(u32 *l) {
  u32 one;
  do {
    one = 1;
    asm volatile("xchgl %0, %1" : "+r"(one), "+m"(*l)::"memory");
    if (one) pause();
  } while (one);
}

void say(const char *text) {
  for (; *text; text++) {
    while (!(inb(0x3fd) & 0x20)) pause();
    outb(0x3f8, *text);
  }
}

void say_hex(u64 value) {
  char text[19] = "0x0";
  int n = 2;
  for (int at = 60; at >= 0; at -= 4)
    if (value >> at || at == 0) text[n++] = "0123456789abcdef"[value >> at & 15];
  text[n] = 0;
  say(text);
}

void check_at(bool good, const char *what, u64 got, u64 want) {
  if (good) return;
  acquire(&lock_of_output);
  failures++;
  say("FAIL ");
  say(what);
  say(": ");
  say_hex(got);
  say(" for ");
  say_hex(want);
  say("\n");
  asm volatile("movl $0, %0" : "=m"(lock_of_output)::"memory");
}

void finish(void) {
  say(failures ? "failed\n" : "passed\n");
  outl(0xf4, failures != 0);
  for (;;) asm volatile("cli; hlt");
}

void gate(int vector, u64 handler, int dpl, int ist) {
  idt[vector].low = handler;
  idt[vector].middle = handler >> 16;
  idt[vector].high = handler >> 32;
  idt[vector].selector = 8;
  idt[vector].ist = ist;
  idt[vector].kind = 0x8e | dpl << 5;
}

void trap(struct frame *f) {
  int v = f->vector;
  if (v == 0x80) {
    f->rip = (u64)leave_user;
    f->cs = 8;
    f->ss = 0x10;
    f->rflags = 2;
    return;
  }
  if (handlers[v]) {
    handlers[v](f);
    return;
  }
  if (v >= 32) {
    say("FAIL nobody waits for an interrupt: ");
    say_hex(v);
    say("\n");
    failures++;
    return;
  }
  seen.vector = v;
  seen.error = f->error;
  seen.rip = f->rip;
  seen.rsp = f->rsp;
  seen.cs = f->cs;
  seen.rflags = f->rflags;
  seen.cr2 = cr2();
  seen.count++;
  if (f->cs & 3) {
    f->rip = (u64)leave_user;
    f->cs = 8;
    f->ss = 0x10;
    f->rflags = 2;
  } else if (resume && self() == 0) {
    f->rip = resume;
  } else {
    say("FAIL an exception nobody waits for: ");
    say_hex(v);
    say(" error ");
    say_hex(f->error);
    say(" at ");
    say_hex(f->rip);
    say(" address ");
    say_hex(cr2());
    say("\n");
    failures++;
    finish();
  }
}

u8 *fresh_page(void) {
  u8 *p = pages[pages_used++ % 224];
  for (int i = 0; i < 4096; i++) p[i] = 0;
  return p;
}

static u64 *table(u64 *at) {
  if (!(*at & P)) *at = (u64)fresh_page() | P | W | U;
  return (u64 *)(*at & 0xfffffffff000);
}

u64 *entry_of(u64 at) {
  u64 *t = table(&pml4[at >> 39 & 511]);
  t = table(&t[at >> 30 & 511]);
  t = table(&t[at >> 21 & 511]);
  return &t[at >> 12 & 511];
}

/* Maps a page of 4 KiB; `at` lies beyond the first 4 GiB. */
void map(u64 at, u64 physical, u64 flags) {
  *entry_of(at) = physical | flags;
  invlpg((void *)at);
}

static void load_tables(int processor) {
  u64 at = (u64)tss[processor];
  *(u64 *)(tss[processor] + 4) = (u64)ring0_stacks[processor + 1 > 3 ? 3 : processor] + 8192;
  for (int i = 0; i < 3; i++) *(u64 *)(tss[processor] + 0x24 + 8 * i) = (u64)ist_stacks[processor][i] + 4096;
  *(u16 *)(tss[processor] + 102) = 104;
  gdt[9 + 2 * processor] = 103 | (at & 0xffffff) << 16 | 0x89ull << 40 | (at >> 24 & 0xff) << 56;
  gdt[10 + 2 * processor] = at >> 32;
  struct {
    u16 limit;
    u64 base;
  } __attribute__((packed)) pointer = {sizeof idt - 1, (u64)idt};
  asm volatile("lidt %0" ::"m"(pointer));
  asm volatile("ltr %w0" ::"r"(0x48 + 16 * processor));
  APIC(0xf0) = 0x1ff;
}

int self(void) {
  u32 r[4];
  cpuid(1, 0, r);
  return r[1] >> 24;
}

static struct {
  void (*volatile f)(void *);
  void *volatile with;
} jobs[4];

void other_processor(void) {
  int n = self();
  load_tables(n);
  asm volatile("lock incl %0" : "+m"(processors)::"memory");
  for (;;) {
    void (*f)(void *) = jobs[n].f;
    if (f) {
      f(jobs[n].with);
      jobs[n].f = 0;
    }
    pause();
  }
}

void run_on(int processor, void (*f)(void *), void *with) {
  jobs[processor].with = with;
  jobs[processor].f = f;
}

void wait_for(int processor) {
  while (jobs[processor].f) pause();
}

void start_processors(void) {
  extern u8 trampoline[], trampoline_end[];
  for (u8 *from = trampoline, *to = (u8 *)0x8000; from < trampoline_end; from++, to++) *to = *from;
  processors = 1;
  u32 r[4];
  cpuid(1, 0, r);
  u32 all = r[1] >> 16 & 0xff;
  if (all < 2) return;
  APIC(0x300) = 0xc4500; /* INIT to all others */
  u64 begin = rdtsc();
  while (rdtsc() - begin < 1000000) pause();
  APIC(0x300) = 0xc4608; /* start at 0x8000 */
  /* Each counts twice: when it has a stack and when it is ready. */
  while (processors != 2 * all - 1) pause();
  processors = all;
}

void group(const char *name, void (*f)(void)) {
  say(name);
  say("\n");
  f();
  resume = 0;
}

void forget_pages(void) {
  for (int i = 1; i < 512; i++) pml4[i] = 0;
  pages_used = 0;
  set_cr3(cr3());
}

void first_processor(void) {
  for (int i = 0; i < 256; i++) gate(i, (u64)stubs + 32 * i, i == 0x80 || i == 3 || i == 4 ? 3 : 0, i == 8 ? 1 : 0);
  load_tables(0);
  outb(0x21, 0xff);
  outb(0xa1, 0xff);
  start_processors();
  say("processors ");
  say_hex(processors);
  say("\n");
  tests();
  finish();
}
