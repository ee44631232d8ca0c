/* 32-bit code that runs often enough to be translated: in compatibility mode, with everything between that takes it out of translation. */
#include "guest.h"

struct sums {
  u32 turns, sum, patched, tops, spare, real;
};
extern volatile struct sums sums;
extern u32 narrow_words[], narrow_copy[];
extern u8 narrow_imm[];
void go_narrow(void);

asm(R"(
        .data
        .align 16
        .globl sums, narrow_words, narrow_copy
sums:   .fill 8, 4, 0
narrow_words: .long 1, 20, 300, 4000, 50000, 600000, 7000000, 80000000
narrow_copy: .fill 8, 4, 0
narrow_places: .long odd, even
narrow_rsp: .quad 0
        .text
        .globl go_narrow
go_narrow:
        pushq %rbx
        pushq %rbp
        pushq %r12
        pushq %r13
        pushq %r14
        pushq %r15
        movq %rsp, narrow_rsp
        movabsq $0x1234567800000000, %r12
        orq %r12, %rsi                  /* the upper halves are nobody's */
        pushq $0x18
        pushq $narrow
        lretq
        .code32
narrow:
        movl $0x10, %eax
        movl %eax, %ss
        movl %eax, %ds
        movl %eax, %es
        movl $0xa0, %eax                /* its base is narrow_words */
        movl %eax, %gs
        fninit
        fldz
        xorl %eax, %eax
        xorl %ebx, %ebx
        xorl %ebp, %ebp
        movl sums, %ecx
turn:   incl %eax
        pushl %eax
        call add_it
        movl %eax, %edx
        andl $1, %edx
        xorl $1, %edx
        jmp *narrow_places(, %edx, 4)
odd:    xorl $0x55, %ebx
        jmp both
even:   addl $3, %ebx
both:   addl %gs:4, %ebx
        fildl %gs:8
        faddp
        .globl narrow_imm
        .byte 0x81, 0xc5                /* addl $1, %ebp */
narrow_imm: .long 1
        testl $7, %eax
        jne 1f
        incl narrow_imm
1:      testl $15, %eax
        jne 2f
        /* A segment that is not all of memory, and back. */
        movl $0xa8, %edx
        movl %edx, %es
        addl %es:0x500, %ebx
        pushl $0x10
        popl %es
        pushl %ecx
        movl $narrow_words, %esi
        movl $narrow_copy, %edi
        movl $8, %ecx
        rep movsl
        popl %ecx
2:      loop turn
        movl %ebx, sums + 4
        movl %ebp, sums + 8
        fistpl sums + 20
        /* Words on the stack, and the flags with it. */
        movl %esp, %edx
        stc
        pushfl
        popl %eax
        andl $1, %eax
        subl %esp, %edx
        addl %edx, %eax
        movl %eax, sums + 12
        ljmp $8, $wide_again
add_it: addl 4(%esp), %ebx
        ret $4
        .code64
wide_again:
        movl $0x10, %eax
        movl %eax, %ss
        movl %eax, %ds
        movl %eax, %es
        xorl %eax, %eax
        movl %eax, %gs
        movq narrow_rsp, %rsp
        popq %r15
        popq %r14
        popq %r13
        popq %r12
        popq %rbp
        popq %rbx
        ret
)");

void test_narrow(void) {
  u64 base = (u64)narrow_words;
  gdt[0xa0 / 8] = 0x00cf93000000ffffull | (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56;
  for (u32 turns = 1; turns < 2000; turns = turns * 3 + 5) {
    u32 sum = 0, patched = 0, step = 1;
    *(volatile u32 *)narrow_imm = 1;
    for (u32 turn = 1; turn <= turns; turn++) {
      sum += turn;
      if (turn & 1)
        sum ^= 0x55;
      else
        sum += 3;
      sum += narrow_words[1];
      patched += step;
      if (turn % 8 == 0) step++;
      if (turn % 16 == 0) sum += *(volatile u32 *)0x500;
    }
    for (int i = 0; i < 8; i++) narrow_copy[i] = 0;
    sums.turns = turns;
    go_narrow();
    equal(sums.sum, sum, "what 32-bit code sums up");
    equal(sums.patched, patched, "32-bit code that changes itself");
    equal(sums.tops, 1, "words of 32 bits on the stack");
    equal(sums.real, 300 * turns, "x87 in 32-bit code");
    for (int i = 0; i < 8; i++) equal(narrow_copy[i], turns < 16 ? 0 : narrow_words[i], "a repeated move of 32 bits");
  }
  gdt[0xa0 / 8] = 0;
}
