/* Out of long mode and back: 32-bit and 16-bit segments with limits, real mode, gates and tasks of protected mode. */
#include "guest.h"

struct answers {
  u32 real, wrapped, sixteen, limit, expand, call, compat, vector, push, flags;
};
extern volatile struct answers answers;
void go_down(void);

/* Runs in 32-bit segments of long mode first, then leaves long mode; every answer lands in `answers`. */
asm(R"(
        .data
        .align 16
        .globl answers
answers: .fill 16, 4, 0
saved_rsp: .quad 0
real_idt: .word 0x3ff
        .long 0
empty_idt: .word 0
        .quad 0
kept_idt: .skip 10
        .text
        .globl go_down
go_down:
        pushq %rbx
        pushq %rbp
        pushq %r12
        pushq %r13
        pushq %r14
        pushq %r15
        movq %rsp, saved_rsp
        sidt kept_idt
        /* Compatibility mode. */
        pushq $0x18
        pushq $compatible
        lretq
        .code32
compatible:
        movl $0x10, %eax
        movl %eax, %ss
        movl %eax, %ds                  /* a return to a user has emptied them */
        movl %eax, %es
        movl $1, %eax
        incl %eax                       /* 40: a REX prefix in 64-bit code */
        movl %eax, answers + 24
        /* Out of long mode. */
        movl %cr0, %eax
        andl $0x7fffffff, %eax
        movl %eax, %cr0
        movl $0xc0000080, %ecx
        rdmsr
        andl $~0x100, %eax
        wrmsr
        movl %cr4, %eax
        andl $~0x20, %eax
        movl %eax, %cr4
        lidtl pm_idt_pointer
        /* Segments with limits. */
        movl $0xa8, %eax
        movl %eax, %es
        movl $1f, pm_resume
        movl $-1, pm_vector
        movb %es:0xfff, %al
        movb %es:0x1000, %al
1:      movl pm_vector, %eax
        movl %eax, answers + 12
        movl $2f, pm_resume
        movl $-1, pm_vector
        movl $0xb0, %eax
        movl %eax, %es
        movb %es:0x1000, %al
        movb %es:0xfff, %al
2:      movl pm_vector, %eax
        movl %eax, answers + 16
        movl $0x10, %eax
        movl %eax, %es
        /* A call gate of 32 bits. */
        movl $gate_target, %eax
        movw %ax, gdt + 0x98
        shrl $16, %eax
        movw %ax, gdt + 0x9e
        movw $0x18, gdt + 0x9a
        movw $0x8c00, gdt + 0x9c
        movl $0, gdt + 0xa0
        movl $0, gdt + 0xa4
        xorl %ebx, %ebx
        lcall $0x98, $0
        movl %ebx, answers + 20
        /* push and pop of segments, pusha, enter and leave with 32 bits. */
        movl %esp, %ecx
        pushal
        pushl %es
        pushl %ds
        popl %eax
        popl %edx
        popal
        enter $16, $1
        leave
        subl %esp, %ecx
        movl %ecx, answers + 32
        /* What BCD and flags do where they exist. */
        movl $0x19, %eax
        addb $0x28, %al
        daa
        movl %eax, answers + 36
        /* 16-bit protected mode, then real mode. */
        ljmp $0x20, $(sixteen - go_down_16 + 0x9000)
back32:
        movl $0x10, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        movl %cr4, %eax
        orl $0x20, %eax
        movl %eax, %cr4
        movl $0xc0000080, %ecx
        rdmsr
        orl $0x100, %eax
        wrmsr
        movl %cr0, %eax
        orl $0x80000000, %eax
        movl %eax, %cr0
        ljmp $8, $back64
        .code64
back64:
        movl $0x10, %eax
        movl %eax, %ss
        movl %eax, %ds
        movl %eax, %es
        xorl %eax, %eax
        movl %eax, %fs
        movl %eax, %gs
        lidt kept_idt
        movq saved_rsp, %rsp
        popq %r15
        popq %r14
        popq %r13
        popq %r12
        popq %rbp
        popq %rbx
        ret
        .code32
gate_target:
        movl $0x6a7e, %ebx
        lret
pm_trap:
        movl $13, pm_vector
        movl pm_resume, %eax
        movl %eax, 4(%esp)
        addl $4, %esp
        iretl
pm_ud:  movl $6, pm_vector
        movl pm_resume, %eax
        movl %eax, (%esp)
        iretl
pm_ss:  movl $12, pm_vector
        movl pm_resume, %eax
        movl %eax, 4(%esp)
        addl $4, %esp
        iretl
        .data
        .align 8
pm_resume: .long 0
        .globl pm_vector
pm_vector: .long 0
        .globl pm_idt
pm_idt: .fill 32, 8, 0
pm_idt_pointer: .word 255
        .long pm_idt
        .text
/* Copied to 0x9000: what runs with 16 bits. */
        .globl go_down_16, go_down_16_end
go_down_16:
        .code16
sixteen:
        movw $0x28, %ax
        movw %ax, %ss
        movw $0x8f00, %sp
        movw $0xffff, %cx
        incw %cx
        pushw %cx
        popw %dx
        movl $0x12345678, %ebx
        addl $1, %ebx
        movw $0x10, %ax
        movw %ax, %ds
        addr32 movl %ebx, answers + 8
        movw $0x28, %ax
        movw %ax, %ds
        movw %ax, %es
        movl %cr0, %eax
        andl $~1, %eax
        movl %eax, %cr0
        ljmp $0x900, $(real - go_down_16)
real:
        xorw %ax, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw $0x8f00, %sp
        lidtl %cs:real_pointer - go_down_16
        movw $(real_handler - go_down_16 + 0x9000), 0x60 * 4
        movw $0, 0x60 * 4 + 2
        movw $0, %bx
        int $0x60
        cmpw $0x1234, %bx
        jne 3f
        /* Addresses are segment times 16 plus offset. */
        movw $0x900, %ax
        movw %ax, %ds
        movw $0x7777, %ds:0x800
        xorw %ax, %ax
        movw %ax, %ds
        cmpw $0x7777, 0x9800
        jne 3f
        /* A far call and return. */
        movw %sp, %si
        lcall $0x900, $(real_far - go_down_16)
        cmpw %si, %sp
        jne 3f
        cmpw $0x4321, %bx
        jne 3f
        movl $1, %edi
        jmp 4f
3:      xorl %edi, %edi
4:      /* A20 is on: FFFF:0010 is 1 MiB, not 0. */
        movw $0xffff, %ax
        movw %ax, %fs
        movl %fs:0x10, %ebp
        lgdtl %cs:real_gdt - go_down_16
        movl %cr0, %eax
        orl $1, %eax
        movl %eax, %cr0
        ljmpl $0x18, $from_real
real_handler:
        movw $0x1234, %bx
        iretw
real_far:
        movw $0x4321, %bx
        lretw
real_pointer:
        .word 0x3ff
        .long 0
real_gdt:
        .word 0xbf
        .long gdt
go_down_16_end:
        .code32
from_real:
        movl $0x10, %eax
        movl %eax, %ds
        movl %eax, %ss
        movl %edi, answers
        movl %ebp, answers + 4
        jmp back32
        .code64
)");

void test_modes(void) {
  extern u8 go_down_16[], go_down_16_end[];
  extern u64 pm_idt[];
  extern u8 pm_trap[], pm_ud[], pm_ss[];
  for (u8 *from = go_down_16, *to = (u8 *)0x9000; from < go_down_16_end; from++, to++) *to = *from;
  u64 code = 0x18ull << 16 | 0x8eull << 40;
  u64 t = (u64)pm_trap, u = (u64)pm_ud, s = (u64)pm_ss;
  pm_idt[13] = code | (t & 0xffff) | (t >> 16) << 48;
  pm_idt[6] = code | (u & 0xffff) | (u >> 16) << 48;
  pm_idt[12] = code | (s & 0xffff) | (s >> 16) << 48;
  for (unsigned i = 0; i < sizeof answers / 4; i++) ((volatile u32 *)&answers)[i] = 0xeeeeeeee;
  go_down();
  equal(answers.compat, 2, "compatibility mode");
  equal(answers.limit, 13, "a segment's limit");
  equal(answers.expand, 13, "a segment that grows down");
  equal(answers.call, 0x6a7e, "a call gate");
  equal(answers.push, 0, "pushes and pops of 32 bits");
  equal(answers.flags, 0x47, "daa");
  equal(answers.sixteen, 0x12345679, "16-bit protected mode");
  equal(answers.real, 1, "real mode");
  equal(answers.wrapped, *(u32 *)0x100000, "1 MiB in real mode");
  equal(cr0() >> 31, 1, "paging again");
}
