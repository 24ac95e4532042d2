//! `memcpy` and `memmove` of the static binary.
//!
//! musl's on x86-64 are one `rep movsq`, which starts slowly: with them a packet's two copies were 5.4 % of the tunnel's
//! time, with glibc's 1.5 %. These move 64 bytes a turn, and any length up to 128 without a loop. Other targets, and a
//! build on glibc, keep their own.
#![allow(unsafe_code)] // Symbols of libc, in assembly.

// Every load of a turn, and of whatever the turns may overwrite, comes before the stores: so source and destination
// may overlap, and one routine serves both names. In Rust the compiler would make a loop of this kind a call to memcpy.
std::arch::global_asm!(
    ".globl hepto_move",
    ".type hepto_move, @function",
    "hepto_move:", // rdi: to, rsi: from, rdx: bytes; returns rdi
    "mov rax, rdi",
    "cmp rdx, 16",
    "jb 20f",
    "cmp rdx, 32",
    "ja 30f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + rdx - 16], xmm1",
    "ret",
    "20:", // 0..15
    "cmp edx, 8",
    "jb 21f",
    "mov rcx, [rsi]",
    "mov r8, [rsi + rdx - 8]",
    "mov [rdi], rcx",
    "mov [rdi + rdx - 8], r8",
    "ret",
    "21:", // 0..7
    "cmp edx, 4",
    "jb 22f",
    "mov ecx, [rsi]",
    "mov r8d, [rsi + rdx - 4]",
    "mov [rdi], ecx",
    "mov [rdi + rdx - 4], r8d",
    "ret",
    "22:", // 0..3
    "test edx, edx",
    "jz 23f",
    "movzx ecx, byte ptr [rsi]",
    "movzx r8d, byte ptr [rsi + rdx - 1]",
    "shr rdx", // the middle of three, or the last of two
    "movzx r9d, byte ptr [rsi + rdx]",
    "lea r10, [rdi + rdx]",
    "adc rdx, rdx", // the carry is the bit that was shifted out
    "mov [rdi], cl",
    "mov [r10], r9b",
    "mov [rdi + rdx - 1], r8b",
    "23:",
    "ret",
    "30:", // 33..
    "cmp rdx, 64",
    "ja 31f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + rdx - 32]",
    "movups xmm3, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + rdx - 32], xmm2",
    "movups [rdi + rdx - 16], xmm3",
    "ret",
    "31:", // 65..: the last 64 bytes are loaded first, the first 64 on the way back
    "mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    "jb 40f",
    "movups xmm4, [rsi + rdx - 64]",
    "movups xmm5, [rsi + rdx - 48]",
    "movups xmm6, [rsi + rdx - 32]",
    "movups xmm7, [rsi + rdx - 16]",
    "lea r8, [rdi + rdx - 64]",
    ".p2align 5",
    "32:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + 32], xmm2",
    "movups [rdi + 48], xmm3",
    "add rsi, 64",
    "add rdi, 64",
    "cmp rdi, r8",
    "jb 32b",
    "movups [r8], xmm4",
    "movups [r8 + 16], xmm5",
    "movups [r8 + 32], xmm6",
    "movups [r8 + 48], xmm7",
    "ret",
    "40:", // the destination begins within the source: from the end
    "movups xmm4, [rsi]",
    "movups xmm5, [rsi + 16]",
    "movups xmm6, [rsi + 32]",
    "movups xmm7, [rsi + 48]",
    "lea r8, [rdi + 64]",
    "lea rcx, [rdi + rdx]",
    "add rsi, rdx",
    ".p2align 5",
    "41:",
    "movups xmm0, [rsi - 16]",
    "movups xmm1, [rsi - 32]",
    "movups xmm2, [rsi - 48]",
    "movups xmm3, [rsi - 64]",
    "movups [rcx - 16], xmm0",
    "movups [rcx - 32], xmm1",
    "movups [rcx - 48], xmm2",
    "movups [rcx - 64], xmm3",
    "sub rsi, 64",
    "sub rcx, 64",
    "cmp rcx, r8",
    "ja 41b",
    "movups [rax], xmm4",
    "movups [rax + 16], xmm5",
    "movups [rax + 32], xmm6",
    "movups [rax + 48], xmm7",
    "ret",
    ".size hepto_move, . - hepto_move",
);

#[cfg(target_env = "musl")]
std::arch::global_asm!(
    ".globl memcpy",
    ".globl memmove",
    ".set memcpy, hepto_move",
    ".set memmove, hepto_move",
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    unsafe extern "C" {
        fn hepto_move(to: *mut u8, from: *const u8, count: usize) -> *mut u8;
    }

    /// Moves within one buffer of bytes that all differ from their neighbours, and compares with the definition.
    fn check(from: usize, to: usize, count: usize) {
        let before: Vec<u8> = (0..from.max(to) + count + 64)
            .map(|i| (i % 251) as u8)
            .collect();
        let mut expected = before.clone();
        for (index, byte) in before[from..from + count].iter().enumerate() {
            expected[to + index] = *byte;
        }
        let mut moved = before;
        let base = moved.as_mut_ptr();
        // SAFETY: both ranges lie within the buffer, and the routine allows them to overlap.
        let returned = unsafe { hepto_move(base.add(to), base.add(from), count) };
        assert_eq!(returned.addr() - base.addr(), to);
        assert!(moved == expected, "{count} bytes from {from} to {to}");
    }

    #[test]
    fn every_length_moves_forth_back_and_apart() {
        for count in 0..600 {
            for (from, to) in [
                (0, 0),
                (0, 1),
                (1, 0),
                (3, 40),
                (40, 3),
                (0, 700),
                (700, 5),
                (7, 71),
                (71, 7),
            ] {
                check(from, to, count);
            }
        }
    }

    proptest! {
        #[test]
        fn any_move_is_that_of_the_definition(from in 0usize..3000, to in 0usize..3000, count in 0usize..3000) {
            check(from, to, count);
        }
    }
}
