//! The few eBPF programs that links need, put together instruction by instruction and given to the kernel.
#![allow(unsafe_code)] // bpf(2) has no wrapper

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use crate::{Error, Result};

/// What a program answers: let the packet go on.
const OK: i32 = 0;
/// What a program answers: drop the packet. Source: `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// In the world's order, as the kernel compares it. Source: IEEE 802.1Q.
const TAG_PROTOCOL: i32 = u16::to_be(0x8100) as i32;

/// Offsets in `struct __sk_buff`. Source: linux/bpf.h.
mod packet {
    pub const VLAN_PRESENT: i16 = 20;
    pub const VLAN_TCI: i16 = 24;
    pub const VLAN_PROTO: i16 = 28;
}

/// Functions of the kernel by number. Source: linux/bpf.h.
mod function {
    pub const VLAN_PUSH: i32 = 18;
    pub const VLAN_POP: i32 = 19;
    pub const REDIRECT: i32 = 23;
}

/// `BPF_F_INGRESS`: hand a packet to a link as if it had come in there.
const AS_RECEIVED: i32 = 1;
/// `BPF_PROG_LOAD`.
const LOAD: libc::c_long = 5;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;
/// No function above asks for another one.
const LICENSE: &std::ffi::CStr = c"Apache-2.0";

/// One instruction: operation, registers, offset, value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    operation: u8,
    /// Source in the upper half, destination in the lower.
    registers: u8,
    offset: i16,
    value: i32,
}

const fn instruction(operation: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        operation,
        registers: (from << 4) | to,
        offset,
        value,
    }
}

const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

const fn set(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

const fn load_word(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

const fn and(to: u8, value: i32) -> Instruction {
    instruction(0x57, to, 0, 0, value)
}

const fn skip_if_equal(register: u8, value: i32, skip: i16) -> Instruction {
    instruction(0x15, register, 0, skip, value)
}

const fn skip_if_other(register: u8, value: i32, skip: i16) -> Instruction {
    instruction(0x55, register, 0, skip, value)
}

const fn call(function: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, function)
}

const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// Takes the tag off packets of known VLANs and hands each to its link as if it had come in there; packets of other VLANs
/// are dropped, and those without a tag (or with priority alone) go on.
pub(super) fn untag(vlans: &[(u16, u32)]) -> Vec<Instruction> {
    let mut program = vec![
        copy(6, 1),
        load_word(2, 6, packet::VLAN_PRESENT),
        skip_if_other(2, 0, 2),
        set(0, OK),
        EXIT,
        load_word(2, 6, packet::VLAN_PROTO),
        skip_if_equal(2, TAG_PROTOCOL, 2),
        set(0, DROP),
        EXIT,
        load_word(2, 6, packet::VLAN_TCI),
        and(2, 0xfff),
        skip_if_other(2, 0, 2),
        set(0, OK),
        EXIT,
    ];
    for (vlan, link) in vlans {
        program.extend([
            skip_if_other(2, i32::from(*vlan), 9),
            copy(1, 6),
            call(function::VLAN_POP),
            skip_if_equal(0, 0, 2),
            set(0, DROP),
            EXIT,
            // Numbers of links are positive `int`s.
            set(1, *link as i32),
            set(2, AS_RECEIVED),
            call(function::REDIRECT),
            EXIT,
        ]);
    }
    program.extend([set(0, DROP), EXIT]);
    program
}

/// Puts a tag on packets and sends them out of another link.
pub(super) fn tag(vlan: u16, link: u32) -> Vec<Instruction> {
    vec![
        set(2, TAG_PROTOCOL),
        set(3, i32::from(vlan)),
        call(function::VLAN_PUSH),
        skip_if_equal(0, 0, 2),
        set(0, DROP),
        EXIT,
        set(1, link as i32),
        set(2, 0),
        call(function::REDIRECT),
        EXIT,
    ]
}

/// The front of `union bpf_attr` for loading; what follows it is zero to the kernel.
#[repr(C)]
struct LoadRequest {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Gives a program to the kernel, which checks it and keeps it as long as the descriptor or a filter refers to it.
pub(super) fn load(program: &[Instruction]) -> Result<OwnedFd> {
    let request = LoadRequest {
        kind: CLASSIFIER,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the request has the layout of `union bpf_attr`, and what it points to outlives the call.
    let made = unsafe { libc::syscall(libc::SYS_bpf, LOAD, &raw const request, size_of::<LoadRequest>()) };
    if made < 0 {
        let action = format!("load a packet program of {} instructions", program.len());
        return Err(Error::Io {
            action,
            source: io::Error::last_os_error(),
        });
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_over_a_vlan_lead_to_the_next() {
        let program = untag(&[(5, 11), (7, 12)]);
        let tests: Vec<usize> = (0..program.len())
            .filter(|at| program[*at] == skip_if_other(2, 5, 9))
            .collect();
        let after = tests[0] + 1 + 9;
        assert_eq!(program[after], skip_if_other(2, 7, 9));
        assert_eq!(program[after + 1 + 9], set(0, DROP));
        assert_eq!(program.last(), Some(&EXIT));
    }

    #[test]
    fn an_instruction_is_eight_bytes() {
        assert_eq!(size_of::<Instruction>(), 8);
        assert_eq!(copy(6, 1).registers, 0x16);
    }
}
