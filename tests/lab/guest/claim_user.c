// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module that uses a claimed function, as one that moves data for it would.
 * What is written to /proc/claim_user is the number of a descriptor; the claim
 * behind it is kept, a page is mapped for the function, and its interrupt taken.
 * What QEMU's edu raises with BY_FILTER in it is seen to before that, and with
 * LOWERED taken back, but told of. Reading tells what has happened. "-1" lets go,
 * "-2" ends the claim. The rest tells the driver that the function has by now of an
 * error on the bus, as drivers/pci/pcie/err.c does: "-3" that one was detected, "-4"
 * that the function is lost, "-5" that it was reset, "-6" that the error is over.
 * "-7" waits for what the driver has left to a worker.
 *
 * Its driver `sleepless`, for a function that has it as driver_override, refuses to
 * sleep. Functions of lower numbers are never asked then: the lab's file systems, in
 * virtio devices, would not come back from it.
 */
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/pci.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <linux/usrdrv.h>
#include <linux/workqueue.h>

static struct usrdrv_claim *claim;
static struct page *page;
static dma_addr_t bus;
static atomic_t signals, gone, quiesced, filtered;
static void __iomem *registers;
static int master_when_quiesced;

static void on_signal(void *data)
{
	/* As soon as it has come it is let through again: this is about contexts. */
	if (atomic_inc_return(&signals) < 4)
		usrdrv_claim_irq_unmask(claim);
}

static void on_gone(void *data)
{
	atomic_inc(&gone);
}

static const struct usrdrv_irq_user user = { .signal = on_signal, .gone = on_gone };

#define EDU_RAISED	0x24
#define EDU_ACK		0x64
#define BY_FILTER	0x100
#define LOWERED		0x200
#define NOBODYS		0x400	/* beside BY_FILTER: it turns out to be nothing */

static u32 raised;

static enum usrdrv_irq_verdict filter_take(struct usrdrv_irq_filter *filter)
{
	raised = ioread32(registers + EDU_RAISED);

	if (!(raised & (BY_FILTER | LOWERED)))
		return USRDRV_IRQ_LEFT;
	iowrite32(raised, registers + EDU_ACK);
	return raised & LOWERED ? USRDRV_IRQ_PASSED : USRDRV_IRQ_TAKEN;
}

static bool filter_taken(struct usrdrv_irq_filter *filter)
{
	atomic_inc(&filtered);
	return !(raised & NOBODYS);
}

static struct usrdrv_irq_filter filter = { .take = filter_take, .taken = filter_taken };

static void unmap(void)
{
	if (bus)
		dma_unmap_page(usrdrv_claim_device(claim), bus, PAGE_SIZE, DMA_BIDIRECTIONAL);
	bus = 0;
}

static int on_event(struct notifier_block *nb, unsigned long event, void *data)
{
	u16 command;

	pci_read_config_word(usrdrv_claim_pci_dev(claim), PCI_COMMAND, &command);
	master_when_quiesced = !!(command & PCI_COMMAND_MASTER);
	if (event == USRDRV_QUIESCED && data == claim)
		atomic_inc(&quiesced);
	unmap();
	return NOTIFY_OK;
}

static struct notifier_block nb = { .notifier_call = on_event };

static void let_go(void)
{
	int index;

	if (!claim)
		return;
	usrdrv_claim_irq_drop(claim, &signals);
	if (registers) {
		usrdrv_claim_irq_unfilter(claim, &filter);
		pci_iounmap(usrdrv_claim_pci_dev(claim), registers);
		registers = NULL;
	}
	index = usrdrv_claim_enter(claim);
	if (index >= 0) {
		unmap();
		usrdrv_claim_exit(claim, index);
	}
	usrdrv_claim_forget(claim, &nb);
	usrdrv_claim_put(claim);
	claim = NULL;
}

static int take(int fd)
{
	int index, ret;

	claim = usrdrv_claim_fdget(fd);
	if (IS_ERR(claim)) {
		ret = PTR_ERR(claim);
		claim = NULL;
		return ret;
	}
	atomic_set(&signals, 0);
	atomic_set(&gone, 0);
	atomic_set(&quiesced, 0);
	atomic_set(&filtered, 0);
	ret = usrdrv_claim_notify(claim, &nb);
	index = ret ? ret : usrdrv_claim_enter(claim);
	if (index >= 0) {
		bus = dma_map_page(usrdrv_claim_device(claim), page, 0, PAGE_SIZE, DMA_BIDIRECTIONAL);
		if (dma_mapping_error(usrdrv_claim_device(claim), bus)) {
			bus = 0;
			ret = -ENOMEM;
		}
		registers = pci_iomap(usrdrv_claim_pci_dev(claim), 0, 0);
		if (!registers)
			ret = -ENOMEM;
		usrdrv_claim_exit(claim, index);
	}
	if (index >= 0 && !ret)
		ret = usrdrv_claim_irq_filter(claim, &filter);
	if (index >= 0 && !ret && usrdrv_claim_irq_filter(claim, &filter) != -EBUSY)
		ret = -EEXIST;
	if (index >= 0 && !ret) {
		ret = usrdrv_claim_irq_take(claim, &user, &signals);
		usrdrv_claim_irq_unmask(claim);
	}
	if (index < 0 || ret)
		let_go();
	return index < 0 ? index : ret;
}

static void bus_error(int step)
{
	struct pci_dev *pdev = usrdrv_claim_pci_dev(claim);
	const struct pci_error_handlers *handler;

	device_lock(&pdev->dev);
	handler = pdev->driver ? pdev->driver->err_handler : NULL;
	if (handler && step == -3)
		handler->error_detected(pdev, pci_channel_io_frozen);
	if (handler && step == -4)
		handler->error_detected(pdev, pci_channel_io_perm_failure);
	if (handler && step == -5 && handler->slot_reset)
		handler->slot_reset(pdev);
	if (handler && step == -6)
		handler->resume(pdev);
	device_unlock(&pdev->dev);
}

static int show(struct seq_file *seq, void *v)
{
	seq_printf(seq, "%s %llu %d %d %d %d %d\n", claim ? pci_name(usrdrv_claim_pci_dev(claim)) : "-",
		   (u64)bus, atomic_read(&signals), atomic_read(&gone), atomic_read(&quiesced),
		   master_when_quiesced, atomic_read(&filtered));
	return 0;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open(file, show, NULL);
}

static ssize_t write(struct file *file, const char __user *buf, size_t size, loff_t *at)
{
	int fd, ret = kstrtoint_from_user(buf, size, 10, &fd);

	if (ret)
		return ret;
	if (fd == -2) {
		if (claim)
			usrdrv_claim_end(claim);
		return size;
	}
	if (fd <= -3 && fd >= -6) {
		if (claim)
			bus_error(fd);
		return size;
	}
	if (fd == -7) {
		/* That of usrdrv_end_later(). flush_workqueue() is for workqueues of one's own. */
		__flush_workqueue(system_freezable_wq);
		return size;
	}
	let_go();
	ret = fd < 0 ? 0 : take(fd);
	return ret ? ret : size;
}

static const struct proc_ops ops = {
	.proc_open = open, .proc_read = seq_read, .proc_write = write, .proc_release = single_release,
};

static int sleepless_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return 0;
}

static int refuse(struct device *dev)
{
	return -EBUSY;
}

static DEFINE_SIMPLE_DEV_PM_OPS(sleepless_pm_ops, refuse, NULL);

static struct pci_driver sleepless = {
	.name = "sleepless", .probe = sleepless_probe, .driver.pm = &sleepless_pm_ops,
};

static int __init claim_user_init(void)
{
	int ret;

	page = alloc_page(GFP_KERNEL);
	if (!page)
		return -ENOMEM;
	ret = proc_create("claim_user", 0600, NULL, &ops) ? pci_register_driver(&sleepless) : -ENOMEM;
	if (ret) {
		remove_proc_entry("claim_user", NULL);
		__free_page(page);
	}
	return ret;
}

static void __exit claim_user_exit(void)
{
	pci_unregister_driver(&sleepless);
	remove_proc_entry("claim_user", NULL);
	let_go();
	__free_page(page);
}

module_init(claim_user_init);
module_exit(claim_user_exit);
MODULE_IMPORT_NS(USRDRV);
MODULE_DESCRIPTION("a test of <linux/usrdrv.h>");
MODULE_LICENSE("GPL");
