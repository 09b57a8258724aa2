# A guest in one boot sector: greets on the serial port, lets go of devices that it is asked for, powers off when its power
# button is pressed or when the second sector of its disk begins with E, and reports a panic when that begins with P.
# `guest.bin` is made of it by: as --32 guest.S -o guest.o && objcopy -O binary -j .text guest.o guest.bin
	.code16
	.text
	.equ COM1, 0x3f8
	.equ PM1_STATUS, 0x600		# where SeaBIOS puts the power management registers
	.equ PM1_ENABLE, 0x602
	.equ PM1_CONTROL, 0x604
	.equ PVPANIC, 0x505
	.equ HOT_DOWN, 0xcc4		# where QEMU's q35 says which devices shall go,
	.equ HOT_EJECT, 0xcc8		# is told that they may,
	.equ HOT_SELECT, 0xcd0		# and behind which bridge
start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movw $0x7c00, %sp
	movb %dl, (0x7e00)		# the disk we came from
	sti
	movw $(0x7c00 + greeting - start), %si
print:
	lodsb
	testb %al, %al
	jz printed
	movb %al, %ah
	movw $(COM1 + 5), %dx
ready:
	inb %dx, %al
	testb $0x20, %al
	jz ready
	movb %ah, %al
	movw $COM1, %dx
	outb %al, %dx
	jmp print
printed:
	movw $0x100, %ax		# the power button shall count
	movw $PM1_ENABLE, %dx
	outw %ax, %dx
loop:
	hlt				# until the next tick of the clock
	movw $PM1_STATUS, %dx
	inw %dx, %ax
	testb $1, %ah
	jnz off
	xorl %ebx, %ebx
bridge:
	movl %ebx, %eax
	movw $HOT_SELECT, %dx
	outl %eax, %dx
	movw $HOT_DOWN, %dx
	inl %dx, %eax
	testl %eax, %eax
	jz stays
	movw $HOT_EJECT, %dx
	outl %eax, %dx
stays:
	incl %ebx
	cmpb $4, %bl
	jne bridge
	movb $0x42, %ah			# read sector 1 to 0x8000
	movb (0x7e00), %dl
	movw $(0x7c00 + packet - start), %si
	int $0x13
	jc loop
	movb (0x8000), %al
	cmpb $'E', %al
	je off
	cmpb $'P', %al
	jne loop
	movb $1, %al
	movw $PVPANIC, %dx
	outb %al, %dx
	jmp loop
off:
	movw $0x2000, %ax		# sleep state 5, now
	movw $PM1_CONTROL, %dx
	outw %ax, %dx
	jmp loop
packet:
	.byte 16, 0
	.word 1, 0x8000, 0
	.quad 1
greeting:
	.asciz "the guest is up\r\n"
	.org 510
	.byte 0x55, 0xaa
