/* Entry of the small guests: from a multiboot loader (32-bit, no paging) into 64-bit C, on every processor.
 * Memory: the image at 1 MiB; the first 4 GiB are mapped one to one with supervisor pages of 2 MiB. */

        .section .multiboot, "a"
        .align 4
        .long 0x1badb002, 0, -0x1badb002

        .macro long_mode target
        movl %cr4, %eax
        orl $0x620, %eax                /* PAE, OSFXSR, OSXMMEXCPT */
        movl %eax, %cr4
        movl $pml4, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx
        rdmsr
        orl $0x901, %eax                /* SCE, LME, NXE */
        wrmsr
        movl %cr0, %eax
        andl $0x9ffffff3, %eax          /* caches on, no EM, no TS */
        orl $0x80050023, %eax           /* PG, AM, WP, NE, MP, PE */
        movl %eax, %cr0
        ljmp $0x08, $\target
        .endm

        .macro data_segments
        movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        xorl %eax, %eax
        movw %ax, %fs
        movw %ax, %gs
        .endm

        .text
        .code32
        .globl _start
_start:
        cli
        movl $boot_stack_end, %esp
        lgdt gdt_pointer
        movl $pml4, %edi
        movl $pdpt + 3, (%edi)
        movl $pdpt, %edi
        movl $pds + 3, %eax
        movl $4, %ecx
1:      movl %eax, (%edi)
        addl $8, %edi
        addl $0x1000, %eax
        loop 1b
        movl $pds, %edi
        movl $0x83, %eax
        movl $2048, %ecx
2:      movl %eax, (%edi)
        addl $8, %edi
        addl $0x200000, %eax
        loop 2b
        long_mode start64
        .code64
start64:
        data_segments
        movq $boot_stack_end, %rsp
        xorl %edi, %edi
        call first_processor
3:      hlt
        jmp 3b

/* Where a start-up IPI begins; copied to TRAMPOLINE. */
        .code16
        .globl trampoline, trampoline_end
trampoline:
        cli
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl 0x8000 + trampoline_gdt - trampoline
        movl %cr0, %eax
        orl $1, %eax
        movl %eax, %cr0
        ljmpl $0x18, $other32
trampoline_gdt:
        .word gdt_end - gdt - 1
        .long gdt
trampoline_end:
        .code32
other32:
        movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %ss
        long_mode other64
        .code64
other64:
        data_segments
        movl $1, %edi
        lock xaddl %edi, processors
        movl %edi, %eax
        incl %eax
        shll $14, %eax
        leaq stacks(%rax), %rsp
        call other_processor
4:      hlt
        jmp 4b

/* Every vector comes here: frame of struct frame in guest.h. */
        .globl stubs
        .align 32
        .set i, 0
stubs:
        .rept 256
        .align 32
        .if i != 8 && (i < 10 || i > 14) && i != 17 && i != 21
        pushq $0
        .endif
        pushq $i
        jmp common
        .set i, i + 1
        .endr
common:
        pushq %rax
        pushq %rcx
        pushq %rdx
        pushq %rbx
        pushq %rbp
        pushq %rsi
        pushq %rdi
        pushq %r8
        pushq %r9
        pushq %r10
        pushq %r11
        pushq %r12
        pushq %r13
        pushq %r14
        pushq %r15
        cld
        movq %rsp, %rdi
        movq %rsp, %rbx
        andq $-16, %rsp
        call trap
        movq %rbx, %rsp
        popq %r15
        popq %r14
        popq %r13
        popq %r12
        popq %r11
        popq %r10
        popq %r9
        popq %r8
        popq %rdi
        popq %rsi
        popq %rbp
        popq %rbx
        popq %rdx
        popq %rcx
        popq %rax
        addq $16, %rsp
        .globl trap_return
trap_return:
        iretq

/* u64 enter_user(u64 rip, u64 rsp, u64 flags, u64 rdi): to ring 3, back with rax by `int $0x80` or a fault. */
        .globl enter_user, leave_user
enter_user:
        pushq %rbx
        pushq %rbp
        pushq %r12
        pushq %r13
        pushq %r14
        pushq %r15
        movq %rsp, kernel_rsp
        pushq $0x3b
        pushq %rsi
        pushq %rdx
        pushq $0x43
        pushq %rdi
        movq %rcx, %rdi
        iretq
leave_user:
        movq kernel_rsp, %rsp
        popq %r15
        popq %r14
        popq %r13
        popq %r12
        popq %rbp
        popq %rbx
        ret

        .data
        .align 16
        .globl gdt, gdt_end, gdt_pointer
gdt:
        .quad 0
        .quad 0x00af9b000000ffff        /* 08: 64-bit code */
        .quad 0x00cf93000000ffff        /* 10: data */
        .quad 0x00cf9b000000ffff        /* 18: 32-bit code */
        .quad 0x00009b000000ffff        /* 20: 16-bit code */
        .quad 0x000093000000ffff        /* 28: 16-bit data */
        .quad 0x00cffb000000ffff        /* 30: 32-bit code of users */
        .quad 0x00cff3000000ffff        /* 38: data of users */
        .quad 0x00affb000000ffff        /* 40: 64-bit code of users */
        .fill 8, 8, 0                   /* 48: a TSS of each processor */
        .quad 0x00af1b000000ffff        /* 88: code that is not present */
        .quad 0x00cf13000000ffff        /* 90: data that are not present */
        .fill 2, 8, 0                   /* 98: a gate */
        .quad 0x0040930000000fff        /* a8: 4 KiB of data */
        .quad 0x0040970000000fff        /* b0: data that grow down to 4 KiB */
        .quad 0x00cf91000000ffff        /* b8: data to read */
gdt_end:
gdt_pointer:
        .word gdt_end - gdt - 1
        .quad gdt
        .globl processors, kernel_rsp
processors:
        .long 1
kernel_rsp:
        .quad 0

        .bss
        .align 4096
        .globl pml4, pdpt, pds, stacks
pml4:   .skip 4096
pdpt:   .skip 4096
pds:    .skip 4 * 4096
boot_stack:
        .skip 16384
boot_stack_end:
stacks: .skip 4 * 16384
        .section .note.GNU-stack, "", @progbits
