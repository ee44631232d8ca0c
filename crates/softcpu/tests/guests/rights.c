/* Who may do what with a page: every set of bits of the entry and of the levels above it, in pages of each size, under every set of
 * controls, for the kernel and for users; what is expected is computed as the manual says it. */
#include "guest.h"

#define BASE 0x260000000000ull
/* Where the page is, whatever its size: 16 MiB is the beginning of a large page, too. */
#define TARGET 0x1000000ull
#define USER_CODE 0x270000000000ull

enum access { LOAD, STORE, CHANGE, FETCH };
enum size { SMALL, MIDDLE, HUGE };

#define WP (1ull << 16)
#define SMEP (1ull << 20)
#define SMAP (1ull << 21)

struct rules {
  bool wp, smep, smap, ac;
};

static u64 *level3, *level2, *level1;
static const char *const names[] = {"a load", "a store", "a change", "a fetch"};

/* The error code of an access to a page that is there, or -1. */
static int expected(bool user, enum access access, u64 leaf, u64 upper, struct rules r) {
  bool u = leaf & upper & U, w = leaf & upper & W, x = !((leaf | upper) & NX), writes = access == STORE || access == CHANGE;
  bool fine;
  if (access == FETCH)
    fine = x && (user ? u : !(r.smep && u));
  else if (user)
    fine = u && (!writes || w);
  else
    fine = !(r.smap && u && !r.ac) && (!writes || w || !r.wp);
  return fine ? -1 : 1 | writes << 1 | user << 2 | (access == FETCH) << 4;
}

static int by_kernel(enum access access, u64 at, bool ac) {
  u64 with = ac ? 1 << 18 : 0;
  switch (access) {
    case LOAD:
      TRY("pushfq; orq %1, (%%rsp); popfq; movb (%0), %%al", ::"r"(at), "r"(with) : "rax", "cc", "memory");
      break;
    case STORE:
      TRY("pushfq; orq %1, (%%rsp); popfq; movb $0x5a, 64(%0)", ::"r"(at), "r"(with) : "cc", "memory");
      break;
    case CHANGE:
      TRY("pushfq; orq %1, (%%rsp); popfq; lock orb $0, 64(%0)", ::"r"(at), "r"(with) : "cc", "memory");
      break;
    case FETCH:
      TRY_STACK("pushfq; orq %1, (%%rsp); popfq; call *%0", ::"r"(at), "r"(with) : "r12", "cc", "memory");
      break;
  }
  asm volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "cc", "memory");
  return seen.vector;
}

static int by_user(enum access access, u64 at) {
  seen.vector = -1;
  /* What runs at the page itself stands 16 bytes behind its beginning. */
  u64 begin = access == FETCH ? at + 16 : USER_CODE + 16 * access;
  enter_user(begin, USER_CODE + 0x2000, 0x202, at);
  return seen.vector;
}

static void judge(int error, u64 at, const char *what) {
  equal(seen.vector, error < 0 ? -1 : 14, what);
  if (error < 0 || seen.vector != 14) return;
  equal(seen.error, error, what);
  equal(seen.cr2, at, what);
}

static void set_rules(struct rules r) {
  set_cr0(r.wp ? cr0() | WP : cr0() & ~WP);
  if (has(7, 1, 7)) set_cr4(r.smep ? cr4() | SMEP : cr4() & ~SMEP);
  if (has(7, 1, 20)) set_cr4(r.smap ? cr4() | SMAP : cr4() & ~SMAP);
}

static u64 *prepare(enum size size, u64 upper) {
  u64 above = P | (upper & (U | W | NX));
  pml4[BASE >> 39 & 511] = (u64)level3 | P | W | U;
  level3[0] = size == HUGE ? 0 : (u64)level2 | above;
  level2[TARGET >> 21] = size == SMALL ? (u64)level1 | above : 0;
  /* A page of 1 GiB has only one level above it. */
  if (size == HUGE) pml4[BASE >> 39 & 511] = (u64)level3 | above;
  return size == HUGE ? level3 : size == MIDDLE ? &level2[TARGET >> 21] : level1;
}

static void combinations(enum size size) {
  static const u64 uppers[] = {U | W, W, U, U | W | NX};
  bool smep = has(7, 1, 7), smap = has(7, 1, 20);
  u64 at = BASE + TARGET, physical = size == HUGE ? 0 : TARGET;
  for (int controls = 0; controls < 16; controls++) {
    struct rules r = {controls & 1, controls & 2, controls & 4, controls & 8};
    if ((r.smep && !smep) || (r.smap && !smap)) continue;
    set_rules(r);
    for (unsigned n = 0; n < 32; n++) {
      u64 upper = uppers[n >> 3], leaf = (n & 1 ? W : 0) | (n & 2 ? U : 0) | (n & 4 ? NX : 0);
      u64 *entry = prepare(size, upper);
      u64 whole = physical | leaf | P | (size == SMALL ? 0 : LARGE);
      *entry = whole;
      set_cr3(cr3());
      for (enum access a = LOAD; a <= FETCH; a++) {
        by_kernel(a, at, r.ac);
        judge(expected(false, a, leaf, upper, r), a == FETCH || a == LOAD ? at : at + 64, names[a]);
      }
      /* Users don't see these rules, but they must not leak into what they may. */
      if (controls != 0 && controls != 7) continue;
      for (enum access a = LOAD; a <= FETCH; a++) {
        *entry = whole;
        invlpg((void *)at);
        by_user(a, at);
        int error = expected(true, a, leaf, upper, r);
        judge(error, a == FETCH ? at + 16 : a == LOAD ? at : at + 64, names[a]);
        bool dirty = error < 0 && (a == STORE || a == CHANGE);
        equal(!!(*entry & D), dirty, "dirty");
        if (error < 0) equal(!!(*entry & A), 1, "accessed");
      }
    }
  }
}

/* What the processor reads for itself is the kernel's doing, whoever runs and whatever AC says. */
static void implicit(void) {
  if (!has(7, 1, 20)) return;
  u64 *local = (u64 *)fresh_page();
  local[1] = 0x00cff3000000ffff;
  map(USER_CODE + 0x4000, (u64)local, P | W | U);
  u64 at = USER_CODE + 0x4000;
  u64 saved[2] = {gdt[0x98 / 8], gdt[0xa0 / 8]};
  gdt[0x98 / 8] = 15 | (at & 0xffffff) << 16 | 0x82ull << 40 | (at >> 24 & 0xff) << 56;
  gdt[0xa0 / 8] = at >> 32;
  asm volatile("lldt %w0" ::"r"(0x98));
  equal(TRY("movw %w0, %%es", ::"r"(0xf) : "memory"), -1, "a segment of the local table");
  set_cr4(cr4() | SMAP);
  equal(TRY("pushfq; orl $0x40000, (%%rsp); popfq; movw %w0, %%es", ::"r"(0xf) : "cc", "memory"), 14, "a descriptor in a user's page");
  equal(seen.error, 1, "its error");
  equal(seen.cr2, at + 8, "its address");
  asm volatile("clac");
  set_cr4(cr4() & ~SMAP);
  asm volatile("movw %w0, %%es; lldt %w1" ::"r"(0x10), "r"(0));
  gdt[0x98 / 8] = saved[0];
  gdt[0xa0 / 8] = saved[1];
}

/* Keys that the model has not. */
static void keys(void) {
  if (has(7, 2, 3)) return;
  equal(try_cr4(cr4() | 1 << 22), 13, "CR4.PKE without keys");
  equal(TRY("rdpkru", ::"c"(0) : "eax", "edx", "memory"), 6, "rdpkru without keys");
  equal(TRY("wrpkru", ::"a"(0), "c"(0), "d"(0) : "memory"), 6, "wrpkru without keys");
  /* The key's bits in an entry mean nothing. */
  *entry_of(USER_CODE + 0x5000) = TARGET | P | W | 0xfull << 59;
  invlpg((void *)(USER_CODE + 0x5000));
  equal(TRY("movb (%0), %%al", ::"r"(USER_CODE + 0x5000) : "rax", "memory"), -1, "a page with a key");
}

/* Without EFER.NXE the bit is a reserved one, and a fetch is no news in an error code. */
static void without_nx(void) {
  u64 at = BASE + TARGET, efer = rdmsr(0xc0000080);
  *prepare(SMALL, U | W) = TARGET | P | W | NX;
  set_cr3(cr3());
  wrmsr(0xc0000080, efer & ~0x800ull);
  set_cr3(cr3());
  by_kernel(LOAD, at, false);
  judge(9, at, "a load from a page with NX where there is none");
  *prepare(SMALL, U | W) = 0;
  set_cr3(cr3());
  by_kernel(FETCH, at, false);
  judge(0, at, "a fetch from no page, without NX");
  wrmsr(0xc0000080, efer);
  set_cr3(cr3());
  by_kernel(FETCH, at, false);
  judge(0x10, at, "a fetch from no page, with NX");
}

void test_rights(void) {
  static const u8 code[4][8] = {
      {0x8a, 0x07, 0xcd, 0x80},             /* movb (%rdi), %al; int $0x80 */
      {0xc6, 0x47, 64, 0x5a, 0xcd, 0x80},   /* movb $0x5a, 64(%rdi); int $0x80 */
      {0xf0, 0x80, 0x4f, 64, 0, 0xcd, 0x80}, /* lock orb $0, 64(%rdi); int $0x80 */
  };
  u8 *text = fresh_page();
  for (int i = 0; i < 4; i++)
    for (int n = 0; n < 8; n++) text[16 * i + n] = code[i][n];
  map(USER_CODE, (u64)text, P | U);
  map(USER_CODE + 0x1000, (u64)fresh_page(), P | W | U | NX);
  *(volatile u8 *)TARGET = 0xc3;
  ((volatile u8 *)TARGET)[16] = 0xcd;
  ((volatile u8 *)TARGET)[17] = 0x80;
  level3 = (u64 *)fresh_page();
  level2 = (u64 *)fresh_page();
  level1 = (u64 *)fresh_page();
  combinations(SMALL);
  combinations(MIDDLE);
  if (has(0x80000001, 3, 26)) combinations(HUGE);
  set_rules((struct rules){true, false, false, false});
  without_nx();
  pml4[BASE >> 39 & 511] = 0;
  set_cr3(cr3());
  implicit();
  keys();
}
