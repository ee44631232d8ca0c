/* Page tables: rights, bits that the processor sets, sizes, what stays in the TLB. */
#include "guest.h"

#define AT 0x210000000000ull

static u8 *page;

static int load(u64 at) { return TRY("movb (%0), %%al", ::"r"(at) : "rax", "memory"); }
static int store(u64 at) { return TRY("movb $0x5a, (%0)", ::"r"(at) : "memory"); }
static int fetch(u64 at) { return TRY_STACK("call *%0", ::"r"(at) : "r12", "memory"); }

static void faults(int vector, u32 error, u64 at, const char *what) {
  equal(seen.vector, vector, what);
  if (vector < 0) return;
  equal(seen.error, error, what);
  equal(seen.cr2, at, what);
}

static void rights(void) {
  map(AT, (u64)page, P | W);
  page[0] = 0xc3;
  load(AT);
  faults(-1, 0, 0, "a load");
  fetch(AT);
  faults(-1, 0, 0, "a fetch");
  map(AT, (u64)page, 0);
  load(AT + 8);
  faults(14, 0, AT + 8, "a load from no page");
  store(AT + 8);
  faults(14, 2, AT + 8, "a store to no page");
  fetch(AT);
  faults(14, 0x10, AT, "a fetch from no page");
  map(AT, (u64)page, P);
  load(AT);
  faults(-1, 0, 0, "a load from a page to read");
  store(AT + 9);
  faults(14, 3, AT + 9, "a store to a page to read");
  set_cr0(cr0() & ~0x10000ull);
  store(AT + 10);
  faults(-1, 0, 0, "a store to a page to read without WP");
  equal(page[10], 0x5a, "what was stored");
  set_cr0(cr0() | 0x10000);
  store(AT + 9);
  faults(14, 3, AT + 9, "a store to a page to read with WP again");
  map(AT, (u64)page, P | W | NX);
  fetch(AT);
  faults(14, 0x11, AT, "a fetch from a page without code");
  map(AT, (u64)page | 1ull << 45, P | W);
  load(AT);
  faults(14, 9, AT, "a reserved bit");
  /* Rights of the upper levels count too. */
  u64 *upper = (u64 *)(pml4[AT >> 39 & 511] & 0xfffffffff000);
  map(AT, (u64)page, P | W);
  u64 whole = upper[0];
  upper[0] &= ~2ull;
  set_cr3(cr3());
  store(AT);
  faults(14, 3, AT, "a store below a level to read");
  upper[0] |= NX;
  set_cr3(cr3());
  fetch(AT);
  faults(14, 0x11, AT, "a fetch below a level without code");
  upper[0] |= 1ull << 7 | 1ull << 13;
  set_cr3(cr3());
  load(AT);
  faults(14, 9, AT, "a large page of 1 GiB at no such address");
  upper[0] = whole;
  set_cr3(cr3());
}

static void bits(void) {
  u64 *e = entry_of(AT);
  map(AT, (u64)page, P | W);
  load(AT);
  equal(*e & (A | D), A, "accessed by a load");
  store(AT);
  equal(*e & (A | D), A | D, "dirty by a store");
  map(AT, (u64)page, P | W);
  asm volatile("lock orb $0, (%0)" ::"r"(AT) : "memory", "cc");
  equal(*e & (A | D), A | D, "dirty by a locked access");
  map(AT, (u64)page, P | W);
  fetch(AT);
  equal(*e & (A | D), A, "accessed by a fetch");
  map(AT, (u64)page, P);
  store(AT);
  equal(*e & D, 0, "not dirty by a store that faults");
  map(AT, (u64)page, P | W);
  asm volatile("cmpxchgb %%bl, (%0)" ::"r"(AT), "a"(page[0] + 1), "b"(0) : "memory", "cc");
  equal(*e & (A | D), A | D, "dirty by a comparison that failed");
}

static void tlb(void) {
  u8 *other = fresh_page();
  page[0] = 1;
  other[0] = 2;
  volatile u8 *p = (u8 *)AT;
  map(AT, (u64)page, P | W);
  equal(*p, 1, "the first page");
  *entry_of(AT) = (u64)other | P | W;
  invlpg((void *)p);
  equal(*p, 2, "after invlpg");
  *entry_of(AT) = (u64)page | P | W;
  set_cr3(cr3());
  equal(*p, 1, "after a load of cr3");
  set_cr4(cr4() | 0x80);
  *entry_of(AT) = (u64)page | P | W | G;
  invlpg((void *)p);
  equal(*p, 1, "a global page");
  *entry_of(AT) = (u64)other | P | W | G;
  set_cr3(cr3());
  u8 still = *p;
  check(still == 1 || still == 2, "a global page may stay");
  set_cr4(cr4() & ~0x80ull);
  equal(*p, 2, "after CR4.PGE was cleared");
  /* A page whose rights grow faults no more. */
  *entry_of(AT) = (u64)other | P;
  invlpg((void *)p);
  store(AT);
  faults(14, 3, AT, "a store to a page to read");
  *entry_of(AT) = (u64)other | P | W;
  store(AT);
  faults(-1, 0, 0, "a store after rights grew, without invlpg");
}

static void large(void) {
  u64 *t = (u64 *)(pml4[AT >> 39 & 511] & 0xfffffffff000);
  t = (u64 *)(t[0] & 0xfffffffff000);
  u64 old = t[1];
  t[1] = 0x400000 | P | W | LARGE;
  invlpg((void *)(AT + 0x200000));
  *(volatile u64 *)(AT + 0x200000 + 0x12345) = 0x77;
  equal(*(volatile u64 *)0x412345, 0x77, "a page of 2 MiB");
  check((t[1] & (A | D)) == (A | D), "bits of a page of 2 MiB");
  t[1] = 0x401000 | P | W | LARGE;
  invlpg((void *)(AT + 0x200000));
  u64 pat = t[1] & 0x1000;
  load(AT + 0x200000);
  equal(seen.vector, -1, "bit 12 of a large page is the memory type's");
  check(pat, "memory type");
  t[1] = 0x402000 | P | W | LARGE;
  invlpg((void *)(AT + 0x200000));
  load(AT + 0x200000);
  faults(14, 9, AT + 0x200000, "a large page at no such address");
  t[1] = old;
  if (has(0x80000001, 3, 26)) {
    u64 *upper = (u64 *)(pml4[AT >> 39 & 511] & 0xfffffffff000);
    u64 before = upper[3];
    upper[3] = P | W | LARGE;
    invlpg((void *)(AT + 0xc0000000));
    *(volatile u64 *)(AT + 0xc0000000 + 0x412348) = 0x99;
    equal(*(volatile u64 *)0x412348, 0x99, "a page of 1 GiB");
    upper[3] = before;
  }
  set_cr3(cr3());
}

static void supervisor(void) {
  page[0] = 0xc3;
  map(AT, (u64)page, P | W | U);
  if (has(7, 1, 7)) {
    set_cr4(cr4() | 1 << 20);
    fetch(AT);
    faults(14, 0x11, AT, "SMEP");
    load(AT);
    faults(-1, 0, 0, "SMEP is about fetches");
    set_cr4(cr4() & ~(1ull << 20));
    fetch(AT);
    faults(-1, 0, 0, "without SMEP");
  }
  if (has(7, 1, 20)) {
    set_cr4(cr4() | 1 << 21);
    load(AT);
    faults(14, 1, AT, "SMAP and a load");
    store(AT);
    faults(14, 3, AT, "SMAP and a store");
    equal(TRY("stac; movb (%0), %%al; clac", ::"r"(AT) : "rax", "memory"), -1, "stac");
    equal(TRY("pushfq; orl $0x40000, (%%rsp); popfq; movb (%0), %%al; clac", ::"r"(AT) : "rax", "memory", "cc"), -1, "AC by popf");
    load(AT);
    faults(14, 1, AT, "SMAP after clac");
    set_cr0(cr0() & ~0x10000ull);
    store(AT);
    faults(14, 3, AT, "SMAP without WP");
    set_cr0(cr0() | 0x10000);
    /* What the processor itself reads is the supervisor's whatever AC says. */
    set_cr4(cr4() & ~(1ull << 21));
    load(AT);
    faults(-1, 0, 0, "without SMAP");
  }
}

static void spaces(void) {
  if (!has(1, 2, 17)) return;
  u64 root = cr3();
  u64 *second = (u64 *)fresh_page();
  u8 *other = fresh_page();
  for (int i = 0; i < 512; i++) second[i] = pml4[i];
  map(AT, (u64)page, P | W);
  page[0] = 1;
  other[0] = 2;
  u64 *upper = (u64 *)fresh_page(), *middle = (u64 *)fresh_page(), *low = (u64 *)fresh_page();
  second[AT >> 39 & 511] = (u64)upper | P | W;
  upper[0] = (u64)middle | P | W;
  middle[0] = (u64)low | P | W;
  low[0] = (u64)other | P | W;
  equal(try_cr3(root | 1 << 4), -1, "cr3 with bits of the cache");
  set_cr3(root);
  set_cr4(cr4() | 1 << 17);
  volatile u8 *p = (u8 *)AT;
  equal(*p, 1, "the first space");
  set_cr3((u64)second | 5);
  equal(*p, 2, "the second space");
  set_cr3(root | 1ull << 63);
  equal(*p, 1, "the first space, kept");
  low[0] = (u64)page | P | W;
  set_cr3((u64)second | 5);
  equal(*p, 1, "the second space, flushed by the load of cr3");
  low[0] = (u64)other | P | W;
  struct {
    u64 pcid, address;
  } d = {5, AT};
  asm volatile("invpcid %0, %1" ::"m"(d), "r"(0ull) : "memory");
  equal(*p, 2, "one page of a space flushed");
  set_cr3(root);
  low[0] = (u64)page | P | W;
  asm volatile("invpcid %0, %1" ::"m"(d), "r"(1ull) : "memory");
  set_cr3((u64)second | 5 | 1ull << 63);
  equal(*p, 1, "a space flushed from another");
  set_cr3(root);
  low[0] = (u64)other | P | W;
  asm volatile("invpcid %0, %1" ::"m"(d), "r"(3ull) : "memory");
  set_cr3((u64)second | 5 | 1ull << 63);
  equal(*p, 2, "all spaces flushed");
  set_cr3(root);
  low[0] = (u64)page | P | W;
  d.pcid = 5;
  asm volatile("invpcid %0, %1" ::"m"(d), "r"(0ull) : "memory");
  set_cr3((u64)second | 5 | 1ull << 63);
  equal(*p, 1, "one page of another space flushed");
  set_cr3(root);
  equal(TRY("invpcid %0, %1", ::"m"(d), "r"(4ull) : "memory"), 13, "invpcid of a kind that is none");
  d.pcid = 0x1000;
  equal(TRY("invpcid %0, %1", ::"m"(d), "r"(1ull) : "memory"), 13, "a number above 4095");
  d.pcid = 0;
  d.address = 0x800000000000;
  equal(TRY("invpcid %0, %1", ::"m"(d), "r"(0ull) : "memory"), 13, "a non-canonical address");
  equal(try_cr0(cr0() & ~(1ull << 31)), 13, "no paging with spaces");
  set_cr4(cr4() & ~(1ull << 17));
  set_cr3(root | 1 << 3);
  equal(try_cr4(cr4() | 1 << 17), 13, "spaces while cr3 has low bits");
  set_cr3(root);
  d.pcid = 1;
  d.address = 0;
  equal(TRY("invpcid %0, %1", ::"m"(d), "r"(1ull) : "memory"), 13, "a number without CR4.PCIDE");
}

/* Accesses that go over the end of a page. */
static void ends(void) {
  u8 *next = fresh_page();
  map(AT, (u64)page, P | W);
  map(AT + 4096, (u64)next, P | W);
  *(volatile u64 *)(AT + 4092) = 0x1122334455667788;
  equal(*(u32 *)(page + 4092), 0x55667788, "the first half");
  equal(*(u32 *)next, 0x11223344, "the second half");
  asm volatile("lock addq %1, (%0)" ::"r"(AT + 4092), "r"(0x100000001ull) : "memory", "cc");
  equal(*(volatile u64 *)(AT + 4092), 0x1122334555667789, "a locked addition over two pages");
  map(AT + 4096, (u64)next, P);
  equal(TRY("movq %1, (%0)", ::"r"(AT + 4092), "r"(-1ull) : "memory"), 14, "a store whose second half faults");
  equal(seen.cr2, AT + 4096, "its address");
  equal(*(u32 *)(page + 4092), 0x55667789, "its first half is not there");
  map(AT + 4096, 0, 0);
  equal(TRY("movups %%xmm0, (%0)", ::"r"(AT + 4088) : "memory"), 14, "16 bytes over the end");
  equal(seen.cr2, AT + 4096, "their address");
  equal(seen.error, 2, "their error");
  equal(TRY_STACK("movq %0, %%rsp; pushq $-1", ::"r"(AT + 4096 + 40) : "r12", "memory"), 8, "a push whose delivery has no stack");
  /* An instruction over two pages, the second of which is missing. */
  u8 *p = page + 4095;
  *p = 0xb8;
  equal(TRY_STACK("call *%0", ::"r"(AT + 4095) : "r12", "rax", "memory"), 14, "an instruction over the end");
  equal(seen.cr2, AT + 4096, "its address");
  equal(seen.rip, AT + 4095, "its beginning");
  map(AT + 4096, (u64)next, P);
  static const u8 rest[] = {1, 2, 3, 4, 0xc3};
  for (unsigned i = 0; i < sizeof rest; i++) next[i] = rest[i];
  u64 value;
  asm volatile("call *%1" : "=a"(value) : "r"(AT + 4095) : "memory");
  equal(value, 0x04030201, "an instruction over two pages");
  next[0] = 9;
  asm volatile("call *%1" : "=a"(value) : "r"(AT + 4095) : "memory");
  equal(value, 0x04030209, "whose second page was written");
}

void test_paging(void) {
  page = fresh_page();
  rights();
  bits();
  tlb();
  large();
  supervisor();
  spaces();
  ends();
}
