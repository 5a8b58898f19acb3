DROP TABLE job_progress;
DROP TABLE jobs;
