//! What a fault shows of the instructions before it, in both tiers.

use iced_x86::{Decoder, DecoderOptions};

use crate::cpu::Tier;
use crate::diff::Case;
use crate::diff::generate::bits;
use crate::diff::machine::{Machine, user_state, user_state32};
use crate::flags::ARITH;
use crate::host::oracle::{CODE, DATA, DATA_LEN};
use crate::state::{CpuState, GS};

const AT: usize = 0x100;
/// Behind the data, where nothing is.
const NOWHERE: u64 = DATA + DATA_LEN as u64 + 8;

/// Runs code on both tiers until it faults and compares registers, flags and where it stood.
fn check(parts: &[&[u8]]) {
    let code = parts.concat();
    let mut page = Box::new([0xcc; 4096]);
    page[AT..AT + code.len()].copy_from_slice(&code);
    let mut state = user_state();
    state.rip = CODE + AT as u64;
    let (stack, source) = (DATA + 0x1000, DATA + 64);
    state.gpr = [7, 9, 1 << 63 | 1, i64::MAX as u64 - 7, stack, 40, source, NOWHERE, 5, 6, 11, 12, 13, 14, 15, 16];
    let instr = Decoder::with_ip(64, &code, state.rip, DecoderOptions::NONE).decode();
    let data = vec![0x5a; DATA_LEN];
    for flags in [0, ARITH] {
        let mut state = state.clone();
        state.rflags = 0x202 | flags;
        let case = Case { page: page.clone(), at: AT, instr, state, data: data.clone() };
        let mut machine = Machine::new().unwrap();
        let (ours, our_data) = machine.run_code(&case, Tier::Translate, code.len());
        let (judge, judge_data) = machine.run_code(&case, Tier::Interpret, code.len());
        assert!((CODE + AT as u64 + 1..CODE + (AT + code.len()) as u64).contains(&judge.rip), "no fault: {code:02x?}");
        assert_eq!(ours.rip, judge.rip, "where it stood: {code:02x?}");
        assert_eq!(ours.gpr, judge.gpr, "{code:02x?}");
        let (had, wanted) = (ours.rflags & ARITH, judge.rflags & ARITH);
        assert_eq!(had, wanted, "{had:#x} for {wanted:#x}: {code:02x?}");
        assert_eq!(ours.instructions, judge.instructions, "{code:02x?}");
        assert_eq!(our_data, judge_data);
    }
}

/// Instructions that set flags.
const SETTERS: [&[u8]; 18] = [
    &[0x48, 0x39, 0xc8],                   // cmp rax, rcx
    &[0x48, 0x83, 0xfb, 0xfd],             // cmp rbx, -3
    &[0x38, 0xcc],                         // cmp ah, cl
    &[0x49, 0x39, 0xc1],                   // cmp r9, rax
    &[0x48, 0x85, 0xd2],                   // test rdx, rdx
    &[0x48, 0x83, 0xc3, 0x08],             // add rbx, 8
    &[0x81, 0xc1, 0xff, 0xff, 0xff, 0x7f], // add ecx, 0x7fffffff
    &[0x48, 0x01, 0xd3],                   // add rbx, rdx
    &[0x48, 0x01, 0xc0],                   // add rax, rax
    &[0x4d, 0x01, 0xd1],                   // add r9, r10
    &[0x48, 0x83, 0xea, 0x02],             // sub rdx, 2
    &[0x4c, 0x29, 0xc0],                   // sub rax, r8
    &[0x29, 0xd1],                         // sub ecx, edx
    &[0x48, 0x21, 0xda],                   // and rdx, rbx
    &[0x45, 0x31, 0xc9],                   // xor r9d, r9d
    &[0x48, 0xff, 0xc3],                   // inc rbx
    &[0x48, 0xf7, 0xdb],                   // neg rbx
    &[0x48, 0x01, 0x16],                   // add [rsi], rdx
];

#[test]
fn a_fault_shows_flags_that_the_next_instruction_would_set() {
    for set in SETTERS {
        // mov r12, [rdi]; xor rax, rax
        check(&[set, &[0x4c, 0x8b, 0x27, 0x48, 0x31, 0xc0]]);
    }
}

#[test]
fn a_fault_shows_flags_whose_operands_are_gone() {
    for set in SETTERS {
        // mov rax, [rsi]; mov rbx, rbp; mov rdx, rbp; mov rcx, rsi
        let over = [0x48, 0x8b, 0x06, 0x48, 0x89, 0xeb, 0x48, 0x89, 0xea, 0x48, 0x89, 0xf1];
        // mov [rdi], rax; cmp rax, 1
        check(&[set, &over, &[0x48, 0x89, 0x07, 0x48, 0x83, 0xf8, 1]]);
    }
}

#[test]
fn flags_that_were_put_away_are_read_and_passed_on() {
    for set in SETTERS {
        // mov r12, [rsi]; setc r8b; dec rbp; mov r12, [rsi + 8]; adc rbp, [rsi]
        let read = [0x4c, 0x8b, 0x26, 0x41, 0x0f, 0x92, 0xc0, 0x48, 0xff, 0xcd, 0x4c, 0x8b, 0x66, 8, 0x48, 0x13, 0x2e];
        // pushfq; pop r10; and [rdi], rcx
        check(&[set, &read, &[0x9c, 0x41, 0x5a, 0x48, 0x21, 0x0f]]);
    }
}

#[test]
fn a_loop_faults_in_a_later_turn_as_in_the_first() {
    for turns in [1_i32, 2, 5, 6, 7, 9] {
        // lea rdi, [rdi - 8 * turns - 8]
        let [a, b, c, d] = (-8 * turns - 8).to_le_bytes();
        let begin = [0x48, 0x8d, 0xbf, a, b, c, d];
        // mov ecx, 0
        check(&[
            &[0xb9, 0, 0, 0, 0],
            &begin,
            &[
                0x48, 0x03, 0x07, 0x48, 0x01, 0x06, // add rax, [rdi]; add [rsi], rax
                0x48, 0x8d, 0x7f, 8, 0x48, 0x83, 0xc1, 1, // lea rdi, [rdi + 8]; add rcx, 1
                0x48, 0x83, 0xf9, 100, 0x75, 0xec, 0x90, // cmp rcx, 100; jne back; nop
            ],
        ]);
        // mov ecx, 50
        check(&[
            &[0xb9, 50, 0, 0, 0],
            &begin,
            &[
                0x48, 0x8b, 0x07, 0x48, 0x8d, 0x7f, 8, // mov rax, [rdi]; lea rdi, [rdi + 8]
                0x48, 0x83, 0xe9, 1, 0x75, 0xf3, 0x90, // sub rcx, 1; jne back; nop
            ],
        ]);
    }
}

#[test]
fn a_second_write_to_a_place_gives_up_flags_and_one_to_another_does_not() {
    // add [rsi], rdx; lea rcx, [rax + 3]
    let first = [0x48, 0x01, 0x16, 0x48, 0x8d, 0x48, 3];
    // sub [rsi], rcx; mov r12, [rdi]; cmp rax, 1
    check(&[&first, &[0x48, 0x29, 0x0e, 0x4c, 0x8b, 0x27, 0x48, 0x83, 0xf8, 1]]);
    // lea rsi, [rdi]; sub [rsi], rcx; cmp rax, 1
    check(&[&first, &[0x48, 0x8d, 0x37, 0x48, 0x29, 0x0e, 0x48, 0x83, 0xf8, 1]]);
    // sub [rdi], rcx; cmp rax, 1
    check(&[&first, &[0x48, 0x29, 0x0f, 0x48, 0x83, 0xf8, 1]]);
}

/// `ah` has no place beside the host registers that memory is reached by: the interpreter does it, and nothing of the attempt stays.
#[test]
fn what_can_not_be_encoded_leaves_nothing_behind() {
    // mov ah, [rsi]; add ch, [rsi + 1]; mov rcx, [rsi]; mov [rdi], rcx
    check(&[&[0x8a, 0x26], &[0x02, 0x6e, 0x01], &[0x48, 0x8b, 0x0e], &[0x48, 0x89, 0x0f]]);
}

/// Runs code on both tiers up to its end, at an offset of the first page of data, and compares everything.
fn check_done(parts: &[&[u8]], offset: u64) {
    check_done_from(user_state(), parts, offset);
}

fn check_done_from(mut state: CpuState, parts: &[&[u8]], offset: u64) {
    let code = parts.concat();
    let mut page = Box::new([0xcc; 4096]);
    page[AT..AT + code.len()].copy_from_slice(&code);
    state.rip = CODE + AT as u64;
    let at = DATA + offset;
    state.gpr = [at, 9, at, at, at, at, at, at, at, at, at, 12, at, at, at, at];
    let instr = Decoder::with_ip(bits(&state), &code, state.rip, DecoderOptions::NONE).decode();
    let data: Vec<u8> = (0..DATA_LEN).map(|n| (n * 7 + n / 256) as u8).collect();
    let case = Case { page, at: AT, instr, state, data };
    let mut machine = Machine::new().unwrap();
    // Once more with the TLB as the first run has left it.
    for round in 0..2 {
        let (ours, our_data) = machine.run_code(&case, Tier::Translate, code.len());
        let (judge, judge_data) = machine.run_code(&case, Tier::Interpret, code.len());
        let what = format!("{code:02x?} at {offset:#x} in round {round}");
        assert_eq!(ours.rip, judge.rip, "{what}");
        assert_eq!(ours.gpr, judge.gpr, "{what}");
        assert_eq!(ours.rflags & ARITH, judge.rflags & ARITH, "{what}");
        assert_eq!(ours.instructions, judge.instructions, "{what}");
        assert!(our_data == judge_data, "{what}");
    }
}

#[test]
fn operands_beside_each_other_and_on_the_stack_are_found_also_over_the_end_of_a_page() {
    let beside: [&[u8]; 12] = [
        &[0x48, 0x8b, 0x06],             // mov rax, [rsi]
        &[0x4c, 0x8b, 0x66, 0x08],       // mov r12, [rsi + 8]
        &[0x48, 0x89, 0x4e, 0x10],       // mov [rsi + 16], rcx
        &[0x48, 0x01, 0x4e, 0x14],       // add [rsi + 20], rcx
        &[0x4c, 0x8b, 0x56, 0x18],       // mov r10, [rsi + 24]
        &[0x66, 0x89, 0x4e, 0x1d],       // mov [rsi + 29], cx
        &[0x48, 0x83, 0x7e, 0x20, 0x05], // cmp qword [rsi + 32], 5
        &[0x48, 0x8b, 0x5e, 0x28],       // mov rbx, [rsi + 40]
        &[0x0f, 0x92, 0x46, 0x30],       // setb [rsi + 48]
        &[0x48, 0x8b, 0x76, 0x38],       // mov rsi, [rsi + 56]
        &[0x48, 0x8d, 0x77, 0x40],       // lea rsi, [rdi + 64]
        &[0x48, 0x8b, 0x0e],             // mov rcx, [rsi]
    ];
    let stack: [&[u8]; 10] = [
        &[0x50],                         // push rax
        &[0x41, 0x52],                   // push r10
        &[0x48, 0x8b, 0x4c, 0x24, 0x08], // mov rcx, [rsp + 8]
        &[0x89, 0x4c, 0x24, 0x16],       // mov [rsp + 22], ecx
        &[0x48, 0x8b, 0x16],             // mov rdx, [rsi]
        &[0x5b],                         // pop rbx
        &[0x48, 0x03, 0x5e, 0x08],       // add rbx, [rsi + 8]
        &[0x9c],                         // pushfq
        &[0x48, 0x83, 0xc4, 0x20],       // add rsp, 32
        &[0x41, 0x5a],                   // pop r10
    ];
    for offset in (0x100..0x140).chain(0xf80..0x1010) {
        check_done(&beside, offset);
        check_done(&stack, offset);
    }
}

#[test]
fn strings_bits_and_fixed_addresses_are_as_the_interpreter_has_them() {
    let count = |n: u8| [0xb9, n, 0, 0, 0];
    for n in [0, 1, 5, 200] {
        for string in [
            &[0xf3, 0xa4][..],
            &[0xf3, 0x48, 0xa5],
            &[0xf3, 0xa5],
            &[0xf3, 0xaa],
            &[0xf3, 0x48, 0xab],
            &[0x66, 0xf3, 0xab],
        ] {
            for offset in [0x200, 0xe00, 0xff8, 0xfff] {
                // lea rdi, [rdi + 3]
                check_done(&[&count(n), &[0x48, 0x8d, 0x7f, 3], string], offset);
            }
        }
    }
    for bit in [[0xb9, 3, 0, 0, 0], [0xb9, 0x45, 1, 0, 0], [0xb9, 0xf0, 0xff, 0xff, 0xff]] {
        for opcode in [0xa3, 0xab, 0xb3, 0xbb] {
            for offset in [0x200, 0xfd0] {
                // op [rsi + 8], rcx; ecx; r10d out of memory
                check_done(
                    &[&bit, &[0x48, 0x63, 0xc9], &[0x48, 0x0f, opcode, 0x4e, 0x08], &[0x0f, 0xb6, 0xd8]],
                    offset,
                );
                check_done(&[&bit, &[0x0f, opcode, 0x4e, 0x08]], offset);
                check_done(&[&[0x41, 0xba, 0x21, 0, 0, 0], &[0x44, 0x0f, opcode, 0x16]], offset);
            }
        }
    }
    // tzcnt rax, rcx and lzcnt ecx, [rsi] of a processor that has neither; mov ax, fs; mov ebx, ds; test eax, eax, as scans leave flags undefined
    check_done(
        &[
            &[0xf3, 0x48, 0x0f, 0xbc, 0xc1],
            &[0xf3, 0x0f, 0xbd, 0x0e],
            &[0x66, 0x8c, 0xe0],
            &[0x8c, 0xdb],
            &[0x85, 0xc0],
        ],
        0x200,
    );
    // add qword [DATA + 0x208], 7; mov rcx, [DATA + 0x208]
    let a = (DATA as u32 + 0x208).to_le_bytes();
    check_done(&[&[0x48, 0x83, 0x04, 0x25], &a, &[7], &[0x48, 0x8b, 0x0c, 0x25], &a], 0x200);
}

#[test]
fn loops_that_are_made_several_times_in_a_row_end_after_every_number_of_turns() {
    // dec ecx, jnz and cmp rbx, rax; jb as ends
    let loops: [&[&[u8]]; 4] = [
        &[&[0x48, 0x01, 0xc8], &[0x48, 0x31, 0xd8], &[0xff, 0xc9], &[0x75, 0xf6]],
        &[&[0x48, 0x01, 0x0e], &[0x48, 0x83, 0xc6, 0x08], &[0xff, 0xc9], &[0x75, 0xf5]],
        &[&[0x48, 0x11, 0xc0], &[0xff, 0xc9], &[0x75, 0xf9]],
        &[&[0xff, 0xc1], &[0x88, 0x0e], &[0x83, 0xf9, 0x17], &[0x72, 0xf7]],
    ];
    for parts in loops {
        for turns in 1..23 {
            let count = [0xb9, turns, 0, 0, 0];
            let mut all: Vec<&[u8]> = vec![&count];
            all.extend(parts);
            // setb dl; a last instruction
            all.push(&[0x0f, 0x92, 0xc2]);
            check_done(&all, 0x200);
            check_done(&all, 0xfa0);
        }
    }
}

#[test]
fn code_of_32_bits_is_as_the_interpreter_has_it() {
    let a = (DATA as u32 + 0x208).to_le_bytes();
    let b = (DATA as u32 + 0x20c).to_le_bytes();
    let stack: [&[u8]; 14] = [
        &[0x50],                         // push eax
        &[0x68, 0xfe, 0xff, 0xff, 0xff], // push -2
        &[0x6a, 0x80],                   // push -128
        &[0xff, 0x76, 0x08],             // push dword [esi + 8]
        &[0x9c],                         // pushfd
        &[0x54],                         // push esp
        &[0x8b, 0x4c, 0x24, 0x04],       // mov ecx, [esp + 4]
        &[0x5b],                         // pop ebx
        &[0x01, 0x14, 0x24],             // add [esp], edx
        &[0x5a],                         // pop edx
        &[0xc8, 0x08, 0, 0],             // enter 8, 0
        &[0xc9],                         // leave
        &[0x60],                         // pushad
        &[0x61],                         // popad
    ];
    let words: [&[u8]; 16] = [
        &[0x40],             // inc eax
        &[0x66, 0x49],       // dec cx
        &[0x48],             // dec eax
        &[0x82, 0xc1, 0x7f], // add cl, 127
        &[0xa1, a[0], a[1], a[2], a[3]],
        &[0xa3, b[0], b[1], b[2], b[3]],
        &[0xa0, b[0], b[1], b[2], b[3]],
        &[0x8d, 0x05, 1, 2, 3, 4], // lea eax, [0x4030201]
        &[0x8d, 0x44, 0x8e, 0xf0], // lea eax, [esi + ecx * 4 - 16]
        &[0x67, 0x8d, 0x47, 0x05], // lea eax, [bx + 5]
        &[0x8d, 0x44, 0x24, 0x04], // lea eax, [esp + 4]
        &[0x39, 0x06],             // cmp [esi], eax
        &[0x0f, 0x42, 0x5e, 0x04], // cmovc ebx, [esi + 4]
        &[0xd9, 0x06],             // fld dword [esi]
        &[0xd8, 0x46, 0x04],       // fadd dword [esi + 4]
        &[0xdd, 0x5e, 0x08],       // fstp qword [esi + 8]
    ];
    let gs: [&[u8]; 4] = [
        &[0x65, 0x8b, 0x46, 0x10],       // mov eax, gs:[esi + 16]
        &[0x65, 0x89, 0x56, 0xf8],       // mov gs:[esi - 8], edx
        &[0x65, 0x8b, 0x1d, 0, 1, 0, 0], // mov ebx, gs:[256]
        &[0x43],
    ];
    let mut based = user_state32();
    based.seg[GS].base = 0x40;
    let mut wrapped = based.clone();
    wrapped.seg[GS].base = 0xffff_ffc0;
    let mut short = based.clone();
    short.seg[GS].limit = DATA as u32 + 0x300;
    for offset in [0x204, 0xff0, 0xffd] {
        check_done_from(user_state32(), &stack, offset);
        check_done_from(user_state32(), &words, offset);
        for state in [&based, &wrapped, &short] {
            check_done_from(state.clone(), &gs, offset);
        }
        for string in [&[0xf3, 0xa4][..], &[0xf3, 0xa5], &[0xf3, 0xab], &[0x66, 0xf3, 0xab], &[0xf3, 0x67, 0xaa]] {
            check_done_from(user_state32(), &[&[0xb9, 9, 0, 0, 0], &[0x8d, 0x7f, 0x03], string], offset);
        }
        for opcode in [0xa3, 0xab, 0xb3, 0xbb] {
            // mov ecx, -77; op [esi + 64], ecx
            check_done_from(user_state32(), &[&[0xb9, 0xb3, 0xff, 0xff, 0xff], &[0x0f, opcode, 0x4e, 0x40]], offset);
        }
    }
    // dec ecx; jnz back; and the same with loop and jecxz
    let begin = [0xb9, 7, 0, 0, 0];
    check_done_from(
        user_state32(),
        &[&begin, &[0x01, 0x0e], &[0x83, 0xc6, 0x04], &[0x49], &[0x75, 0xf8], &[0x43]],
        0x200,
    );
    check_done_from(user_state32(), &[&begin, &[0x01, 0xc8], &[0xe2, 0xfc], &[0xe3, 0x01], &[0x43], &[0x42]], 0x200);
    // cs can't be written: sar dword cs:[esi - 8], 3; and is read: mov eax, cs:[esi]; lea eax, cs:[esi]
    check_done_from(user_state32(), &[&[0x2e, 0x8d, 0x06], &[0x2e, 0x8b, 0x06], &[0x43]], 0x200);
    check_done_from(user_state32(), &[&[0x43], &[0x2e, 0xc1, 0x7e, 0xf8, 0x03], &[0x43]], 0x200);
    // call over a ret; jmp to behind it; and by a register
    check_done_from(user_state32(), &[&[0xeb, 2], &[0x42, 0xc3], &[0xe8, 0xf9, 0xff, 0xff, 0xff], &[0x43]], 0x200);
}

#[test]
fn the_control_word_and_faults_beside_the_unit_are_seen() {
    let word = |v: u16| [0x66, 0xc7, 0x06, v as u8, (v >> 8) as u8];
    for control in [0x027f_u16, 0x037f, 0x0c7f, 0x037b, 0x0340] {
        let set = word(control);
        // mov [rsi], control; fldcw; fld1; fldpi; fdivp; fistp; fnstcw; fwait; fnstsw ax; a mask; movq mm0, [rsi]; paddb; emms
        check_done(
            &[
                &set,
                &[0xd9, 0x2e],
                &[0xd9, 0xe8],
                &[0xd9, 0xeb],
                &[0xde, 0xf9],
                &[0xdd, 0x56, 0x10],
                &[0xdf, 0x5e, 0x18],
                &[0xd9, 0x7e, 0x20],
                &[0x9b],
                &[0xdf, 0xe0],
                &[0x0f, 0xa2],
                &[0x0f, 0x6f, 0x06],
                &[0x0f, 0xfc, 0x46, 0x08],
                &[0x0f, 0x7f, 0x46, 0x28],
                &[0x0f, 0x77],
            ],
            0x200,
        );
    }
}
