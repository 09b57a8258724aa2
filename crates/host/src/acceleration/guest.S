# The guest of the acceleration probe: firmware that goes the way every operating system goes, from 16 over 32 to 64
# bit with paging, takes a timer interrupt of its APIC out of HLT, does some work and ends QEMU with exit code 33.
# `guest.bin` is made of it by: as --64 guest.S -o guest.o && objcopy -O binary -j .text guest.o guest.bin
	.code16
	.section .text
	.globl _start
_start:
	cli
	cld
	xorw %ax, %ax
	movw %ax, %ss
	movw $0x7000, %sp
	lgdtl %cs:(gdtr - _start)
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmpl $0x08, $(0xf0000 + (protected - _start))
	.code32
protected:
	movw $0x10, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	# page tables at 0x1000..0x4fff, IDT at 0x5000, counter at 0x6000: clear
	movl $0x1000, %edi
	xorl %eax, %eax
	movl $0x1800, %ecx
	rep stosl
	movl $0x2003, 0x1000           # PML4[0] -> PDPT
	movl $0x3003, 0x2000           # PDPT[0] -> PD of the first GiB
	movl $0x4003, 0x2018           # PDPT[3] -> PD of the fourth GiB
	movl $0x00000083, 0x3000       # 0..2 MiB
	movl $0xfee0009b, 0x4000+503*8 # APIC, uncached
	movl %cr4, %eax
	orl $0x20, %eax                # PAE
	movl %eax, %cr4
	movl $0x1000, %eax
	movl %eax, %cr3
	movl $0xc0000080, %ecx
	rdmsr
	orl $0x100, %eax               # LME
	wrmsr
	movl %cr0, %eax
	orl $0x80000000, %eax
	movl %eax, %cr0
	ljmpl $0x18, $(0xf0000 + (long - _start))
	.code64
long:
	# gate for vector 0x20 at 0x5000 + 0x20*16
	movl $(0xf0000 + (tick - _start)), %eax
	movw %ax, 0x5200
	movw $0x18, 0x5202
	movw $0x8e00, 0x5204
	shrl $16, %eax
	movw %ax, 0x5206
	lidt idtr(%rip)
	movl $0xfee00000, %ebx
	movl $0x1ff, 0xf0(%rbx)        # enable the APIC
	movl $0x0b, 0x3e0(%rbx)        # divide by 1
	movl $0x20, 0x320(%rbx)        # one shot, vector 0x20
	movl $1000000, 0x380(%rbx)     # 1 ms at QEMU's 1 GHz
	sti
wait:
	hlt
	cmpl $0, 0x6000
	je wait
	# the work: reads, writes, multiplies, branches
	movl $20000000, %ecx
	movl $0x6100, %esi
	movl $12345, %eax
work:
	imull $1103515245, %eax, %eax
	addl $12345, %eax
	movl %eax, %edx
	andl $0x3fc, %edx
	xorl %eax, (%rsi,%rdx)
	decl %ecx
	jnz work
	movb $0x10, %al
	outb %al, $0xf4                # isa-debug-exit: QEMU exits with 33
	cli
stop:
	hlt
	jmp stop
tick:
	pushq %rax
	movl $1, 0x6000
	movl $0xfee000b0, %eax
	movl $0, (%rax)                # end of interrupt
	popq %rax
	iretq
	.align 8
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff       # 32-bit code
	.quad 0x00cf93000000ffff       # data
	.quad 0x00af9b000000ffff       # 64-bit code
gdtr:
	.word 31
	.long 0xf0000 + (gdt - _start)
idtr:
	.word 0x20f
	.quad 0x5000
