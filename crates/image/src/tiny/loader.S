/*
 * From SeaBIOS into the kernel of the tiny guest.
 *
 * The builder (`disk.rs`) writes this at the start of the disk with the partition table and, at its end, the plan: which
 * sectors go where in memory. We read them, let the kernel's own real-mode setup ask the BIOS its questions, and then
 * enter the kernel itself, which lies on the disk uncompressed, where setup would have entered its decompressor.
 * Decompressing takes 0.4 s under emulation, and a general boot loader 0.5 s to read the file; this takes 0.25 s for all.
 *
 * Rebuild the committed `loader.bin` after a change:
 *   as --32 loader.S -o loader.o && ld -m elf_i386 -Ttext 0x7c00 --oformat binary loader.o -o loader.bin
 * A test does the same and compares.
 *
 * Memory while we run:
 *   -0x07c00  stack                            0x07c00  this, with the plan
 *   0x10000   the kernel's setup, heap, stack  0x1f000  the kernel's command line
 *   0x20000   64 KiB that the BIOS reads into  0x30000  six page tables
 */
        .set    SETUP_SEGMENT,  0x1000
        .set    BOUNCE_SEGMENT, 0x2000
        .set    BOUNCE,         0x20000
        .set    TABLES,         0x30000
        .set    SECTORS,        128         /* in one call of the BIOS: 64 KiB, a qcow2 cluster */
        .set    LOADER_SECTORS, 16          /* this program, the plan included */

        .code16
        .globl  _start
_start:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        ljmp    $0, $1f
1:      sti
        movb    %dl, drive
        movw    $packet, %si                /* the rest of this program, to right behind the boot sector */
        movb    $0x42, %ah
        int     $0x13
        jnc     stage2

disk_failed:                                /* say so on the serial line and stop */
        movw    $message, %si
        movw    $0x3f8, %dx
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, %dx
        jmp     1b
2:      hlt
        jmp     2b

message:
        .asciz  "tiny: the BIOS could not read the disk\r\n"
drive:  .byte   0

        .balign 4, 0
packet: .byte   16, 0
count:  .word   LOADER_SECTORS - 1
        .word   0x7e00
segment:.word   0
lba:    .long   1, 0

        .org    446                         /* the partition table, written by the builder */
        .org    510
        .word   0xaa55

/* Each extent of the plan: {u32 first sector, u32 sectors, u32 address}. No sectors: the end. First sector -1: zeros. */
stage2:
        movw    $0x2401, %ax                /* address line 20, for a BIOS that leaves it off */
        int     $0x15
        movw    $0, packet + 4
        movw    $BOUNCE_SEGMENT, segment
        movw    $plan, %si
extent:
        movl    4(%si), %ecx
        testl   %ecx, %ecx
        jz      loaded
        movl    (%si), %eax
        movl    %eax, lba
        movl    8(%si), %edi
        cmpl    $-1, %eax
        je      clear
read:
        movl    $SECTORS, %eax
        cmpl    %eax, %ecx
        jae     1f
        movl    %ecx, %eax
1:      movw    %ax, count
        pushal
        movw    $packet, %si
        movb    drive, %dl
        movb    $0x42, %ah
        int     $0x13
        jc      disk_failed
        popal
        pushl   %ecx
        pushw   %si
        movl    %eax, %ecx
        shll    $7, %ecx                    /* sectors to double words */
        call    reach_all_memory
        movl    $BOUNCE, %esi
        rep movsl (%esi), (%edi)
        popw    %si
        popl    %ecx
        addl    %eax, lba
        subl    %eax, %ecx
        jnz     read
        jmp     next
clear:
        shll    $7, %ecx
        call    reach_all_memory
        xorl    %eax, %eax
        rep stosl %eax, (%edi)
next:
        addw    $12, %si
        jmp     extent

/* Raises the limits of ds and es to 4 GiB, base 0 ("unreal mode"). Any call into the BIOS may lower them again. */
reach_all_memory:
        cli
        pushl   %eax
        lgdtl   table_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        jmp     1f
1:      movw    $0x18, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movl    %cr0, %eax
        andb    $0xfe, %al
        movl    %eax, %cr0
        jmp     1f
1:      xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        popl    %eax
        sti
        ret

/* The builder has completed the setup's header, but for where it should go when it is done. */
loaded:
        movw    $SETUP_SEGMENT, %ax
        movw    %ax, %es
        movl    $from_setup, %es:0x214      /* code32_start */
        cli
        movw    %ax, %ds
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movw    $0xe000, %sp
        ljmp    $SETUP_SEGMENT + 0x20, $0

/* From the setup: 32 bits, flat segments, no paging, esi = boot_params. The kernel wants 64 bits, the first 4 GiB mapped
   to themselves, rsi = boot_params. */
        .code32
from_setup:
        cli
        movl    $TABLES, %edi
        xorl    %eax, %eax
        movl    $(6 * 4096 / 4), %ecx
        rep stosl
        movl    $(TABLES + 0x1003), TABLES
        movl    $(TABLES + 0x1000), %edi
        movl    $(TABLES + 0x2003), %eax
        movl    $4, %ecx
1:      movl    %eax, (%edi)
        addl    $8, %edi
        addl    $0x1000, %eax
        loop    1b
        movl    $(TABLES + 0x2000), %edi
        movl    $0x83, %eax                 /* present, writable, 2 MiB */
        movl    $2048, %ecx
1:      movl    %eax, (%edi)
        addl    $8, %edi
        addl    $0x200000, %eax
        loop    1b
        lgdtl   table_pointer
        movl    %cr4, %eax
        orl     $0x20, %eax                 /* physical address extension */
        movl    %eax, %cr4
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx           /* EFER */
        rdmsr
        orl     $0x100, %eax                /* long mode */
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax           /* paging */
        movl    %eax, %cr0
        ljmp    $0x10, $1f
        .code64
1:      movl    $0x18, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    %esi, %esi
        movl    entry(%rip), %eax
        jmp     *%rax

        .balign 8, 0
table:  .quad   0
        .quad   0x00cf9a000000ffff          /* 0x08: code, 32 bits */
        .quad   0x00af9a000000ffff          /* 0x10: code, 64 bits */
        .quad   0x00cf92000000ffff          /* 0x18: data */
table_pointer:
        .word   table_pointer - table - 1
        .long   table

        .org    1024                        /* from here on the builder's */
entry:  .long   0
plan:
        .org    LOADER_SECTORS * 512
