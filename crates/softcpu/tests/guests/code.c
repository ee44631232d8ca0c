/* Code that changes: by itself, under another address, far ahead and right behind. */
#include "guest.h"

#define AT 0x230000000000ull

static u8 *page;
typedef u64 (*function)(void);

static void put(u8 *to, const u8 *code, unsigned len) {
  for (unsigned i = 0; i < len; i++) ((volatile u8 *)to)[i] = code[i];
}

/* mov eax, n; ret */
static void returns(u8 *to, u32 value) {
  u8 code[] = {0xb8, value, value >> 8, value >> 16, value >> 24, 0xc3};
  put(to, code, sizeof code);
}

void test_code(void) {
  page = fresh_page();
  u8 *alias = (u8 *)(AT + 0x1000);
  map(AT, (u64)page, P | W);
  map(AT + 0x1000, (u64)page, P | W);
  function f = (function)AT;
  for (u32 i = 1; i < 40; i++) {
    returns((u8 *)AT, i);
    for (int again = 0; again < 5; again++) equal(f(), i, "a function written anew");
  }
  for (u32 i = 1; i < 40; i++) {
    returns(alias, i * 3);
    for (int again = 0; again < 5; again++) equal(f(), i * 3, "a function written under another address");
  }
  for (u32 i = 1; i < 40; i++) {
    returns(page, i * 5);
    equal(f(), i * 5, "a function written one to one");
  }
  /* A store into the next instruction of the same block. */
  static const u8 itself[] = {
      0xc7, 0x05, 1, 0, 0, 0, 0x2a, 0, 0, 0, /* movl $42, 1(%rip) */
      0xb8, 7, 0, 0, 0,                      /* movl $7, %eax */
      0xc3,
  };
  for (int i = 0; i < 10; i++) {
    put((u8 *)AT + 0x100, itself, sizeof itself);
    equal(((function)(AT + 0x100))(), 42, "an instruction that changes the next one");
  }
  /* A loop whose body changes on the way: counts in ecx, adds what stands in the instruction. */
  static const u8 loop[] = {
      0xb9, 100, 0, 0, 0,             /* movl $100, %ecx */
      0x31, 0xc0,                     /* xorl %eax, %eax */
      0x05, 1, 0, 0, 0,               /* 1: addl $1, %eax */
      0x83, 0x05, 0xf5, 0xff, 0xff, 0xff, 1, /* addl $1, the number above */
      0xff, 0xc9,                     /* decl %ecx */
      0x75, 0xf0,                     /* jnz 1b */
      0xc3,
  };
  for (int i = 0; i < 10; i++) {
    put((u8 *)AT + 0x200, loop, sizeof loop);
    equal(((function)(AT + 0x200))(), 5050, "a loop that changes itself");
  }
  /* By a string, and by one store over two pages. */
  u8 copy[6];
  for (u32 i = 1; i < 20; i++) {
    returns(copy, i * 7);
    u64 to = AT + 0x300, from = (u64)copy, count = 6;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    equal(((function)(AT + 0x300))(), i * 7, "a function copied by a string");
  }
  u8 *second = fresh_page();
  map(AT + 0x2000, (u64)page, P | W);
  map(AT + 0x3000, (u64)second, P | W);
  u8 *over = (u8 *)(AT + 0x3000 - 3);
  for (u32 i = 1; i < 20; i++) {
    returns(over, i * 0x10001);
    equal(((function)over)(), i * 0x10001, "a function over two pages");
    *(volatile u32 *)(over + 1) = i * 0x20002;
    equal(((function)over)(), i * 0x20002, "its number over the end");
  }
  /* Another page at the same address. */
  u8 *third = fresh_page();
  returns(third, 0x33);
  returns(page, 0x11);
  for (int i = 0; i < 10; i++) {
    map(AT, (u64)page, P | W);
    equal(f(), 0x11, "the first page at an address");
    map(AT, (u64)third, P | W);
    equal(f(), 0x33, "the second page at an address");
  }
  /* An int3 over an instruction and back, as debuggers do. */
  map(AT, (u64)page, P | W);
  for (int i = 0; i < 10; i++) {
    equal(f(), 0x11, "before int3");
    u8 old = *(volatile u8 *)alias;
    *(volatile u8 *)alias = 0xcc;
    equal(TRY_STACK("call *%0", ::"r"(AT) : "rax", "r12", "memory"), 3, "int3");
    *(volatile u8 *)alias = old;
    equal(f(), 0x11, "after int3");
  }
}
