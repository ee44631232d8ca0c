/* String instructions: over pages, backwards, with a fault on the way, overlapping. */
#include "guest.h"

#define AT 0x240000000000ull

void test_strings(void) {
  u8 *one = fresh_page(), *two = fresh_page();
  map(AT, (u64)one, P | W);
  map(AT + 0x1000, (u64)two, P | W);
  map(AT + 0x2000, 0, 0);
  u64 to = AT + 0xff0, count = 32;
  asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(0x5a) : "memory");
  equal(to, AT + 0x1010, "rdi after a fill");
  equal(count, 0, "rcx after a fill");
  check(one[0xfef] == 0 && one[0xff0] == 0x5a && two[15] == 0x5a && two[16] == 0, "a fill over two pages");
  /* Stops where the page does, with registers that say how far it came. */
  to = AT + 0x1ff0;
  count = 8;
  seen.vector = -1;
  asm volatile("movq $9f, resume; rep stosq; 9: movq $0, resume" : "+D"(to), "+c"(count) : "a"(-1ull) : "memory");
  equal(seen.vector, 14, "a fill into no page");
  equal(seen.cr2, AT + 0x2000, "its address");
  equal(to, AT + 0x2000, "rdi where it stopped");
  equal(count, 6, "rcx where it stopped");
  equal(*(u64 *)(two + 0xff8), -1ull, "what was filled");
  u64 from = AT + 0x1f00;
  to = AT + 0x1f80;
  count = 0x100;
  seen.vector = -1;
  asm volatile("movq $9f, resume; rep movsb; 9: movq $0, resume" : "+D"(to), "+S"(from), "+c"(count)::"memory");
  equal(seen.vector, 14, "a copy into no page");
  equal(to, AT + 0x2000, "rdi where it stopped");
  equal(from, AT + 0x1f80, "rsi where it stopped");
  equal(count, 0x80, "rcx where it stopped");
  /* Overlapping: each byte once, in order. */
  for (int i = 0; i < 64; i++) one[i] = i;
  from = AT;
  to = AT + 1;
  count = 63;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
  check(one[0] == 0 && one[1] == 0 && one[63] == 0, "a copy one ahead");
  for (int i = 0; i < 64; i++) one[i] = i;
  from = AT;
  to = AT + 4;
  count = 7;
  asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory");
  static u8 same[64] __attribute__((aligned(8)));
  for (int i = 0; i < 64; i++) ((volatile u8 *)same)[i] = i;
  for (int i = 0; i < 7; i++) *(volatile u64 *)(same + 4 + 8 * i) = *(volatile u64 *)(same + 8 * i);
  bool good = true;
  for (int i = 0; i < 64; i++) good &= same[i] == one[i];
  check(good, "a copy of words that overlap");
  for (int i = 0; i < 64; i++) one[i] = i;
  from = AT + 62;
  to = AT + 63;
  count = 63;
  asm volatile("std; rep movsb; cld" : "+D"(to), "+S"(from), "+c"(count)::"memory");
  check(one[0] == 0 && one[1] == 0 && one[2] == 1 && one[63] == 62, "a copy backwards");
  equal(from, AT - 1, "rsi backwards");
  /* Backwards over the page's start. */
  to = AT + 0x1004;
  count = 3;
  asm volatile("std; rep stosq; cld" : "+D"(to), "+c"(count) : "a"(0x1111111111111111) : "memory");
  equal(to, AT + 0x1004 - 24, "rdi backwards");
  check(one[0xff4] == 0x11 && two[11] == 0x11 && two[12] == 0x5a, "a fill backwards over two pages");
  /* Comparisons stop where they differ. */
  for (int i = 0; i < 64; i++) one[i] = two[i] = i;
  two[40] = 0;
  from = AT;
  to = AT + 0x1000;
  count = 64;
  bool zero;
  asm volatile("repe cmpsb; setz %3" : "+D"(to), "+S"(from), "+c"(count), "=q"(zero)::"memory", "cc");
  equal(count, 23, "rcx of a comparison");
  check(!zero && from == AT + 41, "where it stopped");
  to = AT;
  count = 64;
  asm volatile("repne scasb; setz %2" : "+D"(to), "+c"(count), "=q"(zero) : "a"(9) : "memory", "cc");
  check(zero && to == AT + 10 && count == 54, "a search");
  count = 0;
  asm volatile("cmpl %%eax, %%eax; repne scasb; setz %2" : "+D"(to), "+c"(count), "=q"(zero) : "a"(9) : "memory", "cc");
  check(zero, "no iteration changes no flag");
  /* With 32-bit addresses the upper halves of the registers go, and the counter has 32 bits. */
  static u8 low[16];
  to = (u64)low | 0x100000000;
  count = 0x500000004;
  asm volatile("addr32 rep stosb" : "+D"(to), "+c"(count) : "a"(3) : "memory");
  equal(count, 0, "ecx");
  equal(to, (u64)low + 4, "edi");
  check(low[3] == 3 && low[4] == 0, "a fill by 32-bit addresses");
  low[0] = low[1] = low[2] = low[3] = 0;
  /* With a segment's base. */
  u64 base = rdmsr(0xc0000101);
  wrmsr(0xc0000101, AT);
  from = 0x10;
  u8 value;
  asm volatile("lodsb %%gs:(%%rsi)" : "=a"(value), "+S"(from)::"memory");
  equal(value, 0x10, "a load by gs");
  wrmsr(0xc0000101, base);
  static const char text[] = "";
  from = (u64)text;
  count = 0;
  asm volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(0x80) : "memory");
  equal(from, (u64)text, "no output");
}
