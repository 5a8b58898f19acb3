DROP TABLE job_receipts;
