//! memcpy(3) and memmove(3) for programs that are linked with musl.
//!
//! musl copies with `rep movs`, which a processor takes some thirty cycles to begin. Nearly all copies of a short-lived program are a
//! few words: names, and structures on their way out of a JSON reader. They were 4 % of a container's start.

/// Makes the program's `memcpy` and `memmove`: up to 32 bytes in two overlapping halves, more in steps of 32.
///
/// What is loaded first and stored last (the end of a copy upwards, the beginning of one downwards) needs no loop for the odd bytes, and
/// makes every overlap come out right, so that both names are one function.
#[macro_export]
macro_rules! quick_copy {
    () => {
        #[expect(unsafe_code, reason = "the C library's callers use this name")]
        mod quick_copy {
            // rdi: to, rsi: from, rdx: bytes; returns rdi (System V ABI). Only registers that a caller gives up are used.
            std::arch::global_asm!(
                ".pushsection .text.memcpy,\"ax\",@progbits",
                ".globl memcpy",
                ".globl memmove",
                ".type memcpy,@function",
                ".type memmove,@function",
                ".p2align 5",
                "memcpy:",
                "memmove:",
                "mov rax, rdi",
                "cmp rdx, 16",
                "jb 2f",
                "cmp rdx, 32",
                "ja 5f",
                "movups xmm0, [rsi]",
                "movups xmm1, [rsi + rdx - 16]",
                "movups [rdi], xmm0",
                "movups [rdi + rdx - 16], xmm1",
                "ret",
                // below 16
                "2:",
                "cmp edx, 8",
                "jb 3f",
                "mov rcx, [rsi]",
                "mov r8, [rsi + rdx - 8]",
                "mov [rdi], rcx",
                "mov [rdi + rdx - 8], r8",
                "ret",
                "3:",
                "cmp edx, 4",
                "jb 4f",
                "mov ecx, [rsi]",
                "mov r8d, [rsi + rdx - 4]",
                "mov [rdi], ecx",
                "mov [rdi + rdx - 4], r8d",
                "ret",
                // up to three: the first, the middle and the last, which may be the same
                "4:",
                "test edx, edx",
                "jz 9f",
                "mov r9, rdx",
                "shr r9, 1",
                "movzx ecx, byte ptr [rsi]",
                "movzx r8d, byte ptr [rsi + r9]",
                "movzx r10d, byte ptr [rsi + rdx - 1]",
                "mov [rdi], cl",
                "mov [rdi + r9], r8b",
                "mov [rdi + rdx - 1], r10b",
                "9:",
                "ret",
                // more than 32: downwards if the destination begins within the source
                "5:",
                "mov rcx, rdi",
                "sub rcx, rsi",
                "cmp rcx, rdx",
                "jb 7f",
                "movups xmm4, [rsi + rdx - 32]",
                "movups xmm5, [rsi + rdx - 16]",
                "lea r8, [rdi + rdx - 32]",
                "6:",
                "movups xmm0, [rsi]",
                "movups xmm1, [rsi + 16]",
                "movups [rdi], xmm0",
                "movups [rdi + 16], xmm1",
                "add rsi, 32",
                "add rdi, 32",
                "sub rdx, 32",
                "cmp rdx, 32",
                "ja 6b",
                "movups [r8], xmm4",
                "movups [r8 + 16], xmm5",
                "ret",
                "7:",
                "movups xmm4, [rsi]",
                "movups xmm5, [rsi + 16]",
                "8:",
                "movups xmm0, [rsi + rdx - 32]",
                "movups xmm1, [rsi + rdx - 16]",
                "movups [rdi + rdx - 32], xmm0",
                "movups [rdi + rdx - 16], xmm1",
                "sub rdx, 32",
                "cmp rdx, 32",
                "ja 8b",
                "movups [rdi], xmm4",
                "movups [rdi + 16], xmm5",
                "ret",
                ".size memcpy, . - memcpy",
                ".size memmove, . - memmove",
                ".popsection",
            );
        }
    };
}
