# A kernel that is booted directly: greets on the serial port and waits. Source of the header: the Multiboot
# specification, version 0.6.96.
# `kernel.bin` is made of it by: as --32 kernel.S -o kernel.o && objcopy -O binary -j .text kernel.o kernel.bin
	.text
	.code32
	.equ BASE, 0x100000
start:
	.long 0x1badb002
	.long 0x00010000		# addresses follow
	.long -(0x1badb002 + 0x00010000)
	.long BASE			# where this header goes
	.long BASE			# where the file goes
	.long 0				# all of it
	.long 0
	.long BASE + entry - start
entry:
	movl $(BASE + greeting - start), %esi
print:
	lodsb
	testb %al, %al
	jz wait
	movb %al, %ah
	movw $0x3fd, %dx
ready:
	inb %dx, %al
	testb $0x20, %al
	jz ready
	movb %ah, %al
	movw $0x3f8, %dx
	outb %al, %dx
	jmp print
wait:
	cli
	hlt
	jmp wait
greeting:
	.asciz "the kernel is up\r\n"
