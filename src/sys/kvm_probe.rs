//! A guest of one sector that does what a usable KVM does without effort.
//!
//! It enters long mode, runs the instructions that emulating hosts stumble over (`cmpxchg16b`, an
//! `int3` through its own gate), spins 2^24 times in ring 0, which takes milliseconds on hardware
//! and minutes where each instruction is emulated, and writes 0x10 to the debug-exit port.

core::arch::global_asm!(
    r#"
    .pushsection .rodata.zoneward_kvm_probe,"a",@progbits
    .globl zoneward_kvm_probe_sector
zoneward_kvm_probe_sector:
    .code16
10: cli
    xor eax, eax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7c00
    in al, 0x92
    or al, 2
    out 0x92, al
    # Page tables at 0x1000: the first 2 MiB, mapped as they are.
    xor eax, eax
    mov edi, 0x1000
    mov ecx, 0x1000
    cld
    rep stosd
    mov dword ptr ds:[0x1000], 0x2003
    mov dword ptr ds:[0x2000], 0x3003
    mov dword ptr ds:[0x3000], 0x83
    mov bx, 0x7da0
    lgdt [bx]
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, 0x1000
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000001
    mov cr0, eax
    .byte 0x66, 0xea
    .long (20f - 10b) + 0x7c00
    .word 8
    .code64
20: xor eax, eax
    mov ds, ax
    mov es, ax
    mov ss, ax
    # The gate of vector 3, at 0x4000 + 3 * 16.
    mov ebx, 0x4030
    mov eax, 0x7d80
    mov word ptr [rbx], ax
    mov word ptr [rbx + 2], 8
    mov word ptr [rbx + 4], 0x8e00
    mov word ptr [rbx + 6], 0
    mov qword ptr [rbx + 8], 0
    mov ebx, 0x7db0
    lidt [rbx]
    xor eax, eax
    xor edx, edx
    xor ecx, ecx
    mov ebx, 1
    mov esi, 0x5000
    lock cmpxchg16b [rsi]
    int3
    cmp byte ptr [rsi + 16], 0x33
    jne 22f
    mov ecx, 0x1000000
21: dec ecx
    jnz 21b
    mov al, 0x10
    out 0xf4, al
22: hlt
    jmp 22b
    # At fixed places, because an operand may not be the difference of two labels: the gate ...
    .org zoneward_kvm_probe_sector + 0x180
    mov byte ptr [rsi + 16], 0x33
    iretq
    # ... the descriptors (none, 64-bit code) ...
    .org zoneward_kvm_probe_sector + 0x190
    .quad 0
    .quad 0x00209a0000000000
    # ... and where the two tables are.
    .org zoneward_kvm_probe_sector + 0x1a0
    .word 15
    .long 0x7d90
    .org zoneward_kvm_probe_sector + 0x1b0
    .word 0xfff
    .quad 0x4000
    .org zoneward_kvm_probe_sector + 510
    .byte 0x55, 0xaa
    .popsection
    "#
);

unsafe extern "C" {
    static zoneward_kvm_probe_sector: [u8; 512];
}

/// The boot sector.
// SAFETY: the symbol is the sector above: 512 bytes in read-only data (`.org` says so), never written.
pub(crate) static KVM_PROBE: &[u8; 512] = unsafe { &zoneward_kvm_probe_sector };
