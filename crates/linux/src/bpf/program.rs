//! Writing a program: one method for each kind of instruction that is used, jumps to labels.
//!
//! Wire facts. An instruction has 8 bytes: a code, target and source register (four bits each), a signed offset of 16 bits
//! and a constant of 32. Register 0 has results, 1 to 5 arguments, 6 to 9 are kept across calls, 10 is the end of the stack.

use std::os::fd::AsRawFd;

use super::Map;

const LOAD: u8 = 0x61;
const STORE_REGISTER: u8 = 0x63;
const STORE_CONSTANT: u8 = 0x62;
const LOAD_CONSTANT_64: u8 = 0x18;
const MAP_BY_DESCRIPTOR: u8 = 1;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// A function of the kernel, by its number.
const LOOK_UP: i32 = 1;
const JUMP: u8 = 0x05;
/// Added to the code of an operation whose second operand is a register.
const BY_REGISTER: u8 = 0x08;

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "their numbers are their names")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    /// The end of the stack.
    Stack,
}

/// How much is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 4 bytes.
    Four = 0x00,
    /// 2 bytes.
    Two = 0x08,
    /// 1 byte.
    One = 0x10,
    /// 8 bytes.
    Eight = 0x18,
}

/// What a jump depends on: of a register, seen as unsigned, and what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Test {
    /// They are equal.
    Equal = 0x15,
    /// It is greater.
    Greater = 0x25,
    /// They have a bit in common.
    AnyBit = 0x45,
    /// They differ.
    Differs = 0x55,
}

/// A place in a program, known by where [`Program::place`] puts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program as it is written.
#[derive(Debug, Default)]
pub struct Program {
    code: Vec<[u8; 8]>,
    /// Where each label is.
    places: Vec<Option<usize>>,
    /// Jumps and their labels.
    jumps: Vec<(usize, Label)>,
}

impl Program {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A label that is still to be placed.
    pub fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// Here is the label.
    pub fn place(&mut self, label: Label) -> &mut Self {
        if let Some(place) = self.places.get_mut(label.0) {
            *place = Some(self.code.len());
        }
        self
    }

    /// `to = *(from + offset)`, the rest of the register zero.
    pub fn load(&mut self, size: Size, to: Reg, from: Reg, offset: i16) -> &mut Self {
        self.push(LOAD | size as u8, to, from as u8, offset, 0)
    }

    /// `*(to + offset) = from`.
    pub fn store(&mut self, size: Size, to: Reg, offset: i16, from: Reg) -> &mut Self {
        self.push(STORE_REGISTER | size as u8, to, from as u8, offset, 0)
    }

    /// `*(to + offset) = value`.
    pub fn store_value(&mut self, size: Size, to: Reg, offset: i16, value: i32) -> &mut Self {
        self.push(STORE_CONSTANT | size as u8, to, 0, offset, value)
    }

    /// `to = from`.
    pub fn copy(&mut self, to: Reg, from: Reg) -> &mut Self {
        self.push(0xb7 | BY_REGISTER, to, from as u8, 0, 0)
    }

    /// `to = value`, its sign kept.
    pub fn set(&mut self, to: Reg, value: i32) -> &mut Self {
        self.push(0xb7, to, 0, 0, value)
    }

    /// `to += value`.
    pub fn add(&mut self, to: Reg, value: i32) -> &mut Self {
        self.push(0x07, to, 0, 0, value)
    }

    /// `to += from`.
    pub fn add_register(&mut self, to: Reg, from: Reg) -> &mut Self {
        self.push(0x07 | BY_REGISTER, to, from as u8, 0, 0)
    }

    /// `to *= value`.
    pub fn multiply(&mut self, to: Reg, value: i32) -> &mut Self {
        self.push(0x27, to, 0, 0, value)
    }

    /// `to *= from`.
    pub fn multiply_register(&mut self, to: Reg, from: Reg) -> &mut Self {
        self.push(0x27 | BY_REGISTER, to, from as u8, 0, 0)
    }

    /// `to >>= bits`.
    pub fn shift_right(&mut self, to: Reg, bits: i32) -> &mut Self {
        self.push(0x77, to, 0, 0, bits)
    }

    /// `to &= value`.
    pub fn and(&mut self, to: Reg, value: i32) -> &mut Self {
        self.push(0x57, to, 0, 0, value)
    }

    /// `to` is the map, as calls about maps want it.
    pub fn map(&mut self, to: Reg, map: &Map) -> &mut Self {
        self.push(LOAD_CONSTANT_64, to, MAP_BY_DESCRIPTOR, 0, map.handle.as_raw_fd());
        self.code.push([0; 8]);
        self
    }

    /// Goes to the label if the register and a constant are so.
    pub fn jump_if(&mut self, register: Reg, test: Test, value: i32, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(test as u8, register, 0, 0, value)
    }

    /// Goes to the label if two registers are so.
    pub fn jump_if_both(&mut self, register: Reg, test: Test, other: Reg, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(test as u8 | BY_REGISTER, register, other as u8, 0, 0)
    }

    /// Goes to the label.
    pub fn jump(&mut self, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.push(JUMP, Reg::R0, 0, 0, 0)
    }

    /// Finds what a map has for the key at this place of the stack: register 0 points to it, or is zero.
    pub fn look_up(&mut self, map: &Map, key: i16) -> &mut Self {
        self.point(Reg::R2, key).map(Reg::R1, map).call(LOOK_UP)
    }

    /// `to` points to this place of the stack.
    pub fn point(&mut self, to: Reg, at: i16) -> &mut Self {
        self.copy(to, Reg::Stack).add(to, at.into())
    }

    /// Calls a function of the kernel by its number; arguments 1 to 5 are lost, the result is in register 0.
    pub fn call(&mut self, function: i32) -> &mut Self {
        self.push(CALL, Reg::R0, 0, 0, function)
    }

    /// Ends with what register 0 says.
    pub fn exit(&mut self) -> &mut Self {
        self.push(EXIT, Reg::R0, 0, 0, 0)
    }

    fn push(&mut self, code: u8, to: Reg, from: u8, offset: i16, value: i32) -> &mut Self {
        let [low, high] = offset.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        let registers = if cfg!(target_endian = "little") { from << 4 | to as u8 } else { (to as u8) << 4 | from };
        self.code.push([code, registers, low, high, a, b, c, d]);
        self
    }

    /// The instructions, with every jump to a placed label.
    pub(super) fn code(&self) -> Vec<[u8; 8]> {
        let mut code = self.code.clone();
        for (at, label) in &self.jumps {
            // A label that was never placed leaves a jump to itself, which the kernel refuses as an endless loop.
            let place = self.places.get(label.0).copied().flatten().unwrap_or(*at);
            let far = i16::try_from(place).unwrap_or(i16::MAX) - i16::try_from(at + 1).unwrap_or(i16::MAX);
            if let Some(instruction) = code.get_mut(*at) {
                let [low, high] = far.to_ne_bytes();
                [instruction[2], instruction[3]] = [low, high];
            }
        }
        code
    }
}
